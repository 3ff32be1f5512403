"""What is held equal: the protocol and the track, with their digests. Imports no torch."""
