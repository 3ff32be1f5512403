"""What the documentation's site makes from the code and from the project's own rows."""
