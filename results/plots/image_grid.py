"""A grid of generated images: one row per operating point, one column per prompt, the same seeds in each row."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from results.files import write_atomic

SMALLEST, LARGEST = 128, 384  # pixels of a shown image's longer side
GAP, MARGIN = 8, 16
FONT_SIZE, LINE = 13, 17
MAX_CAPTION_LINES = 6
INK, FAINT, PAPER = "#222222", "#8a8a8a", "white"


def image_grid(
    rows: Sequence[tuple[str, Sequence[str | Path | np.ndarray | None]]],
    captions: Sequence[str],
    path: str | Path,
    max_columns: int = 8,
) -> Path:
    """Write a PNG with one row per (label, images) and one column per caption; returns its path.

    An image is a file or an array (H, W, 3) uint8.

    Small images are enlarged by a whole factor to at least 128 pixels with nearest neighbour, so that no pixel is
    made up; large ones are reduced to 384. Only the first `max_columns` columns are drawn, and a note says so. A
    missing or unreadable image leaves a blank cell with a dash. Raises ValueError where there is nothing to draw.
    """
    if not rows or not captions or max_columns < 1:
        raise ValueError("an image grid needs at least one row and one column")
    shown = captions[:max_columns]
    cells = [[_load(images[i]) if i < len(images) else None for i in range(len(shown))] for _, images in rows]
    present = [image for row in cells for image in row if image is not None]
    width = max((image.width for image in present), default=SMALLEST)
    height = max((image.height for image in present), default=SMALLEST)
    font = _font()
    wrapped = [_wrap(caption, font, width) for caption in shown]
    names = [_wrap(label, font, 200) for label, _ in rows]
    left = MARGIN + int(max(font.getlength(line) for lines in names for line in lines)) + 2 * GAP
    top = MARGIN + LINE * max(map(len, wrapped)) + GAP
    hidden = len(captions) - len(shown)
    size = (
        left + len(shown) * (width + GAP) - GAP + MARGIN,
        top + len(rows) * (height + GAP) - GAP + MARGIN + (LINE + GAP if hidden else 0),
    )
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, lines in enumerate(wrapped):
        x = left + column * (width + GAP)
        _write(pen, (x, top - GAP - LINE * len(lines)), lines, font)  # captions stand on the images
    for row, (lines, images) in enumerate(zip(names, cells, strict=True)):
        y = top + row * (height + GAP)
        _write(pen, (MARGIN, y + (height - LINE * len(lines)) // 2), lines, font)
        for column, image in enumerate(images):
            x = left + column * (width + GAP)
            if image is not None:
                sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
            else:
                pen.text((x + width // 2, y + height // 2), "–", fill=FAINT, font=font, anchor="mm")
    if hidden:
        note = f"The first {len(shown)} of {len(captions)} prompts."
        pen.text((left, size[1] - MARGIN - LINE), note, fill=FAINT, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return write_atomic(path, buffer.getvalue())


def _load(source: str | Path | np.ndarray | None) -> Image.Image | None:
    """The image at its shown size, or None where there is none to read."""
    if source is None:
        return None
    if isinstance(source, np.ndarray):
        image = Image.fromarray(source)
    else:
        try:
            with Image.open(source) as file:
                image = file.convert("RGB")
        except OSError:
            return None
    longer = max(image.size)
    if longer > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        return image
    factor = -(-SMALLEST // longer)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _font() -> ImageFont.FreeTypeFont:
    """matplotlib's own copy of DejaVu Sans: the same letters on every machine."""
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width` pixels where four letters fit into it, and MAX_CAPTION_LINES of them at most."""
    letters = max(4, int(width / font.getlength("i")))
    while True:
        lines = textwrap.wrap(text, letters, max_lines=MAX_CAPTION_LINES, placeholder=" …") or [""]
        if letters == 4 or all(font.getlength(line) <= width for line in lines):
            return lines
        letters -= 1


def _write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], lines: list[str], font: ImageFont.FreeTypeFont) -> None:
    for index, line in enumerate(lines):
        pen.text((corner[0], corner[1] + index * LINE), line, fill=INK, font=font)
