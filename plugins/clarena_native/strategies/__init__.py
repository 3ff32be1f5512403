"""The native strategies, one file each."""
