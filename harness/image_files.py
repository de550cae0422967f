"""Image files of a user's: one way to read them, wherever they go."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from harness.errors import UserError

_DEEP = ("I", "F")  # 16-bit or floating-point grey: to 8 bits Pillow cuts off what is above


def rgb(path: Path) -> Image.Image:
    """An image, turned as its EXIF data say, what is transparent over white. Raises UserError for one that cannot be
    read, or has more than 8 bits per channel."""
    image = _upright(path)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def mask(path: Path) -> Image.Image:
    """A mask in grey. Raises UserError as `rgb` does, and for one that is transparent somewhere, since then it is not
    known whether its colours or its transparency are meant."""
    image = _upright(path)
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:  # type: ignore
        raise UserError(f"{path}: a mask must be black and white, and this one is transparent in places; save it "
                        "without transparency, white where pixels are generated")  # fmt: skip
    try:
        return image.convert("L")
    except ValueError as error:  # colours that Pillow knows no way from, as LAB
        raise UserError(f"{path}: a mask must be black and white: {error}") from error


def readable(path: Path) -> bool:
    """Whether a file looks like an image that `rgb` can read, without decoding all of it."""
    try:
        with Image.open(path) as image:
            image.verify()
            return not image.mode.startswith(_DEEP)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _upright(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            if image.mode.startswith(_DEEP):
                raise UserError(f"{path} has more than 8 bits per channel (mode {image.mode}); save it with 8")
            return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no readable image: {error}") from error
