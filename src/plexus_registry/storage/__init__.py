"""What keeps the registry's state on disk."""
