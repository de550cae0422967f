"""The stages of the recipe: the VAE, then the text encoder and the DiT together."""
