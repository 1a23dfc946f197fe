"""The client library: a connection, announcing, discovery. Trio only."""
