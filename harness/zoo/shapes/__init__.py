"""`shapes`: a small latent DiT on captioned scenes, with its data, its judge and the recipe that made both."""
