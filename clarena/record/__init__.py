"""What a run leaves, what follows from it, and where it is kept. Imports no torch."""
