"""Exemplars of the past are learned again."""
