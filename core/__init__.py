"""What both flows and the figures stand on: facts, splits, run directories, statistics; no JAX, no torch."""
