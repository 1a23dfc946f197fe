"""The client library: a connection, announcing, discovery. Trio only."""

DEFAULT_URL = "ws://127.0.0.1:4445"
"""Where the registry of this machine is, unless it was told otherwise."""
