"""Steps are turned so that the past is not harmed."""
