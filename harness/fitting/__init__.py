"""Fits: a method's parameters and LoRA, trained on a frozen model."""
