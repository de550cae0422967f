"""Inpainting: masks, regions, and the ways in which pipelines fill them."""
