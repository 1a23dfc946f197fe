"""Calls: JSON-RPC, the Plexus dialect, streams and schemas."""
