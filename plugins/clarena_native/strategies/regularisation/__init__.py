"""Weights that mattered are held near where they were."""
