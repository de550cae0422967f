"""`emoji`: a small latent DiT on pictures that others drew, with its held-out pictures and the recipe for both."""
