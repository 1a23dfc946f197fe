"""Who is alive: deadlines, probes and what follows from them."""
