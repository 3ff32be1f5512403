"""Making runs: from a request to its records."""
