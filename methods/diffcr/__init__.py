"""DiffCR (You et al., CVPR 2025): token routing whose compression ratios are learned per layer and timestep."""

from methods.diffcr.method import DiffCR

__all__ = ["DiffCR"]
