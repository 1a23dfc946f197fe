"""The rules of the registry: no I/O, no clock, no random ids, no `await`."""
