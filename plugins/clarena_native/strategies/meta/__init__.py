"""Steps that agree with each other are learned."""
