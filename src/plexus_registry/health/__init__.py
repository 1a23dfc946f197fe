"""Health of backends: deadlines, probes and what follows from them."""
