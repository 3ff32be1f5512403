"""Strategies that learn prompts for a backbone that stays as it is."""
