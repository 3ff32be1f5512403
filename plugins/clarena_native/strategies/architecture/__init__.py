"""The network grows, or parts of it are frozen."""
