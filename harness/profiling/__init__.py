"""What methods cost on one denoiser step of a model, whose weights may be random."""
