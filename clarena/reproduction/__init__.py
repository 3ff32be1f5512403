"""Published tables that can be run again, ours beside theirs."""
