"""Old outputs are kept on new inputs."""
