"""The parts of the front door."""
