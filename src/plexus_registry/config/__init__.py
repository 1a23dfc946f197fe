"""What the config file and the environment declare."""
