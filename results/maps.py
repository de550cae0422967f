"""Token maps and ratio tables, drawn from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from results.figures import write_png


def token_maps(
    values: np.ndarray, images: np.ndarray, path: str | Path, *, title: str, label: str, columns: int = 8
) -> Path:
    """One row per layer below the image as it forms, one column per sampling step (at most `columns`, evenly chosen).

    values: (T, L, H, W) in 0..1; images: (T, h, w, 3) uint8. Writes a PNG and returns its path.
    """
    steps, layers = values.shape[:2]
    chosen = np.unique(np.linspace(0, steps - 1, min(columns, steps)).round().astype(int))
    figure = Figure(figsize=(1.1 * len(chosen) + 1.4, 1.1 * (layers + 1) + 0.9), layout="constrained")
    axes = figure.subplots(layers + 1, len(chosen), squeeze=False)
    for column, step in enumerate(chosen):
        axes[0, column].imshow(images[step], interpolation="nearest")
        axes[0, column].set_title(f"step {step + 1}", fontsize=9)
        for layer in range(layers):
            drawn = axes[layer + 1, column].imshow(values[step, layer], vmin=0, vmax=1, cmap="viridis")
    for row, name in enumerate(["image", *(f"layer {i}" for i in range(layers))]):
        axes[row, 0].set_ylabel(name, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    bar = figure.colorbar(drawn, ax=axes, shrink=0.5, pad=0.02)
    bar.set_label(label, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return write_png(figure, path)


def ratio_table(ratios: Sequence[Sequence[float]], path: str | Path, *, title: str) -> Path:
    """Compression ratios as a heatmap, (layers, timestep regions), noisiest region on the left."""
    table = np.asarray(ratios, dtype=float)  # (L, R)
    layers, regions = table.shape
    figure = Figure(figsize=(1.0 * regions + 2.6, 0.42 * layers + 1.4), layout="constrained")
    axes = figure.add_subplot()
    highest = max(0.5, float(table.max()))
    drawn = axes.imshow(table, vmin=0, vmax=highest, cmap="viridis", aspect="auto")
    for layer in range(layers):
        for region in range(regions):
            value = table[layer, region]
            colour = "black" if value > 0.6 * highest else "white"
            axes.text(region, layer, f"{100 * value:.0f} %", ha="center", va="center", color=colour, fontsize=9)
    axes.set_yticks(range(layers), [f"layer {i}" for i in range(layers)])
    if regions > 1:
        axes.set_xticks(range(regions), [f"region {i + 1}" for i in range(regions)])
        axes.set_xlabel("timestep region (noisy to clean)")
    else:
        axes.set_xticks([])
    figure.colorbar(drawn, ax=axes).set_label("compression ratio")
    axes.set_title(title, fontsize=11)
    return write_png(figure, path)


def ratio_against_score(ratios: np.ndarray, scores: np.ndarray, path: str | Path, *, title: str) -> Path:
    """Compression ratio against mean router score, a dot per layer and timestep region, with Pearson's correlation.

    Both (layers, regions).
    """
    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    layers, regions = ratios.shape
    for region in range(regions):
        label = f"region {region + 1}" if regions > 1 else None
        colour = colormaps["plasma"](0.9 * region / max(1, regions - 1))
        axes.scatter(scores[:, region], ratios[:, region], color=colour, s=28, label=label)
    defined = ratios.std() > 0 and scores.std() > 0
    r = f"{np.corrcoef(ratios.ravel(), scores.ravel())[0, 1]:.2f}" if defined else "undefined"
    axes.set(xlabel="mean router score", ylabel="compression ratio")
    axes.set_title(f"{title} (Pearson r = {r}, N = {ratios.size})", fontsize=10)
    axes.grid(color="#e9e9e9")
    if regions > 1:
        axes.legend(fontsize=8)
    return write_png(figure, path)
