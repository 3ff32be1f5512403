"""A pre-trained backbone is adapted: by what is added to its blocks or weights, or by small steps of all it has."""
