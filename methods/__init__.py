"""Ways to make a DiT cheaper. Each file can be read alone."""
