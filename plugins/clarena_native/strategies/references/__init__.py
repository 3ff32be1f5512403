"""The bounds: what every table is read against."""
