"""Narrow adapters onto the DiTs of diffusers: one small file per family."""
