"""What is added to a backbone learns, and the backbone stays as it is."""
