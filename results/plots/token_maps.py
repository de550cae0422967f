"""Which tokens a point keeps, router scores and learned ratios, drawn from a run folder's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from results.files import slug
from results.plots.png import NO_MATH, write_png
from results.run_files import TokenMaps


@mpl.rc_context(NO_MATH)
def draw(maps: TokenMaps, label: str, folder: Path) -> list[Path]:
    """Pictures of one point: kept tokens, and router scores, learned ratios and how the two go together where the
    method has them. No picture of kept tokens where every token keeps its place in every layer. Returns the paths."""
    start, written = folder / slug(label.replace(" %", "")), []

    def path(what: str) -> Path:
        return start.with_name(f"{start.name}-{what}.png")

    if (maps.keep < 1).any():
        halves = "share of CFG halves that keep the token"
        written.append(token_maps(maps.keep, maps.images, path("kept"), title=f"{label}: kept tokens", label=halves))
    if maps.ratios is not None:
        written.append(ratio_table(maps.ratios.tolist(), path("ratios"), title=f"{label}: ratios at inference"))
    if maps.scores is not None:
        title = f"{label}: router scores"
        mean = "score, mean of CFG halves"
        written.append(token_maps(maps.scores, maps.images, path("scores"), title=title, label=mean))
        if maps.ratios is not None:
            steps, regions = len(maps.scores), maps.ratios.shape[1]
            region = np.arange(steps) * regions // steps  # of each sampling step
            scores = np.nanmean(maps.scores, axis=(2, 3))  # (T, L)
            means = np.stack([scores[region == r].mean(0) for r in range(regions)], axis=1)  # (L, R)
            written.append(ratio_against_score(maps.ratios, means, path("correlation"), title=label))
    return written


@mpl.rc_context(NO_MATH)
def token_maps(
    values: np.ndarray, images: np.ndarray, path: str | Path, *, title: str, label: str, columns: int = 8
) -> Path:
    """One row per layer below the image as it forms, one column per sampling step (at most `columns`, evenly chosen).

    values: (T, L, H, W) in 0..1; images: (T, h, w, 3) uint8. Writes a PNG and returns its path.
    """
    steps, layers = values.shape[:2]
    chosen = np.unique(np.linspace(0, steps - 1, min(columns, steps)).round().astype(int))
    figure = Figure(figsize=(1.1 * len(chosen) + 1.6, 1.1 * (layers + 1) + 0.9), layout="constrained")
    top, below = figure.subplots(2, 1, height_ratios=[1, layers])
    rows = [_strip(values[chosen, layer]) for layer in range(layers)]
    gap = np.full((1, rows[0].shape[1]), np.nan)
    mosaic = np.concatenate([part for row in rows for part in (row, gap)][:-1])
    drawn = below.imshow(mosaic, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    top.imshow(_strip(images[chosen] / 255), interpolation="nearest")
    for axis, height, names in ((top, images.shape[1], ["image"]), (below, values.shape[2] + 1, range(layers))):
        width = (images.shape[2] if axis is top else values.shape[3]) + 1
        labels = [str(name) if axis is top else f"layer {name}" for name in names]
        axis.set_yticks(np.arange(len(labels)) * height + (height - 1) / 2, labels, fontsize=9)
        axis.set_xticks(np.arange(len(chosen)) * width + (width - 2) / 2, [f"step {s + 1}" for s in chosen], fontsize=9)
        axis.tick_params(length=0, labeltop=axis is top, labelbottom=False)
        axis.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=below, shrink=0.5, pad=0.02).set_label(label, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return write_png(figure, path, around=True)  # square cells in a tall figure push the labels out


def _strip(pictures: np.ndarray) -> np.ndarray:
    """Pictures (C, H, W) or (C, H, W, 3) side by side with a blank column between them."""
    blank = np.ones_like(pictures[0, :, :1]) if pictures.ndim == 4 else np.full_like(pictures[0, :, :1], np.nan)
    return np.concatenate([part for picture in pictures for part in (picture, blank)][:-1], axis=1)


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
    axes.set_axisbelow(True)
    axes.grid(color="#e9e9e9")
    if regions > 1:
        axes.legend(fontsize=8)
    return write_png(figure, path)
