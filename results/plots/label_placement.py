"""Where to put small labels beside points so that they hide as little as possible. Pure geometry, in pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Where a label's centre may go, by preference: right above, right below, left above, left below, above, below, sides.
_DIRECTIONS = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1.3), (0, -1.3), (1.3, 0), (-1.3, 0)])

_HIDDEN = 0.25


def place(
    points: ArrayLike, sizes: ArrayLike, obstacles: ArrayLike, frame: Sequence[float], gap: float
) -> NDArray[np.float64]:
    """The centre (P, 2) of each label: of eight places around its point the one that covers least.

    points: (P, 2); sizes: (P, 2) width and height of each label; obstacles: (M, 4) boxes x0, y0, x1, y1 that labels
    should not cover; frame: the box that they should stay in; gap: the distance from the point to the label.
    Labels are placed greedily in the order given, and each becomes an obstacle for the next. One that would hide more
    than `_HIDDEN` of itself or of another label is left out: NaN.
    """
    anchors = np.asarray(points, dtype=float).reshape(-1, 2)  # (P, 2)
    extents = np.asarray(sizes, dtype=float).reshape(-1, 2)  # (P, 2)
    taken = np.asarray(obstacles, dtype=float).reshape(-1, 4)  # (M, 4)
    labels = np.empty((0, 4))
    centres = np.full_like(anchors, np.nan)
    for index, (anchor, size) in enumerate(zip(anchors, extents, strict=True)):
        candidates = anchor + _DIRECTIONS * (size / 2 + gap)  # (8, 2)
        boxes = np.hstack([candidates - size / 2, candidates + size / 2])  # (8, 4)
        outside = size.prod() - _overlaps(boxes, np.asarray([frame], dtype=float))[:, 0]  # (8,)
        covered = _overlaps(boxes, taken).sum(axis=1) + 10 * outside  # (8,)
        best = int(np.argmin(np.round(covered, 6)))
        smaller = np.minimum(size.prod(), (labels[:, 2:] - labels[:, :2]).prod(axis=1))  # (L,)
        if (_overlaps(boxes[best : best + 1], labels)[0] > _HIDDEN * smaller).any():
            continue
        centres[index] = candidates[best]
        taken, labels = np.vstack([taken, boxes[best]]), np.vstack([labels, boxes[best]])
    return centres


def along(polyline: ArrayLike, spacing: float, radius: float) -> NDArray[np.float64]:
    """Boxes (M, 4) of half-width `radius`, about `spacing` apart, along a line through points of the shape (P, 2)."""
    corners = np.asarray(polyline, dtype=float).reshape(-1, 2)  # (P, 2)
    lengths = np.hypot(*np.diff(corners, axis=0).T)  # (P - 1,)
    travelled = np.concatenate([[0.0], np.cumsum(lengths)])  # (P,)
    stops = np.linspace(0, travelled[-1], int(travelled[-1] // spacing) + 2)  # (M,)
    on_line = np.stack([np.interp(stops, travelled, corners[:, axis]) for axis in (0, 1)], axis=1)  # (M, 2)
    return np.hstack([on_line - radius, on_line + radius])


def _overlaps(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas (P, M) that boxes (P, 4) and others (M, 4) share."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])  # (P, M, 2)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])  # (P, M, 2)
    sides: NDArray[np.float64] = np.maximum(high - low, 0.0)  # (P, M, 2)
    return sides[..., 0] * sides[..., 1]
