"""Tasks that run beside the server for as long as it runs."""
