"""The client library: connect, announce, discover. Trio only."""

DEFAULT_URL = "ws://127.0.0.1:4445"
"""The URL of a registry on this machine that runs with default options."""
