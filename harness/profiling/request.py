"""What a profile measures, as the user asked for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from harness.config import Asked, one_line
from harness.errors import UserError

META = "meta"


class Profile(Asked):
    """Methods on one denoiser step. None means the model's own default."""

    model: str = Field("random:pixart-sigma-512", description="random:NAME, a zoo model or a pipeline folder")
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3)
    batch: tuple[int, ...] = Field((1,), description="images per batch; every one is measured")
    size: tuple[int, ...] = Field((), description="sides of the latents; none: the configured one")
    text_tokens: int | None = Field(None, ge=0, le=100_000)
    mask_tokens: int | None = Field(None, ge=1, description="tokens to generate, for models that take a subset")
    ratio_table: Path | None = Field(None, description="CSV of layer, region, ratio for methods that are tabled")

    @field_validator("batch", "size")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        for number in value:
            if number < 1:
                raise ValueError(f"expected positive whole numbers, got {number}")
        return tuple(dict.fromkeys(value))


def build(values: dict[str, Any]) -> Profile:
    """Validate. Raises UserError with one line."""
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise UserError(one_line(error, Profile)) from error
