"""The zoo model `shapes-inpaint`: Lazy Diffusion on the scenes of `shapes`."""
