"""What a plugin sees: strategy, training loop, experience, backbone, benchmark."""
