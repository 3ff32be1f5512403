"""Finding plugins, what they offer, their options, and the identity of their code."""
