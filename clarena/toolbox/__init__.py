"""What a strategy, a backbone or a benchmark may use."""
