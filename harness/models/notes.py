"""`harness.json` beside a pipeline: what the harness should know of it, checked before any of it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness import text
from harness.errors import UserError
from harness.sweep import one_line

_OURS = (
    "prompt",
    "num_inference_steps",
    "guidance_scale",
    "generator",
    "output_type",
    "latents",
    "image",
    "mask_image",
)


class _Defaults(BaseModel):
    """Of the sampler, where the user names none."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0)


class _Call(BaseModel):
    """Arguments of the pipeline's call; those that are named here are read here too."""

    model_config = ConfigDict(extra="allow")

    height: int | None = Field(None, ge=1)
    width: int | None = Field(None, ge=1)
    max_sequence_length: int | None = Field(None, ge=1)
    negative_prompt: str = ""
    true_cfg_scale: float = 1.0


class _Notes(BaseModel):
    """Of a pipeline: where its prompts come from (scenes), who judges its images (judge) and in whose features they are
    compared with the true ones, and how it is called."""

    model_config = ConfigDict(extra="forbid")

    scenes: Literal["shapes", "emoji"] | None = None
    judge: Literal["shapes-judge"] | None = None
    features: Literal["efficientnet-lite0", "shapes-judge"] | None = None
    inpaints: bool = False
    defaults: _Defaults | None = None
    call: _Call | None = None
    fit: dict[str, Any] = Field(default_factory=dict)

    @field_validator("call")
    @classmethod
    def _free(cls, value: _Call | None) -> _Call | None:
        if value is not None and (taken := [name for name in _OURS if name in value.model_fields_set]):
            raise ValueError(f"{taken[0]} is given by the harness itself; leave it out, got {taken[0]!r}")
        return value


def read(path: Path) -> dict[str, Any]:
    """What the file says; nothing where there is none. Raises UserError."""
    if not path.exists():
        return {}
    found = text.json_of(text.read(path, "the file"), str(path))
    try:
        notes = _Notes.model_validate(found)
        call = (
            {"call": notes.call.model_dump(exclude_unset=True)} if notes.call is not None else {}
        )  # null is a value there
        return notes.model_dump(exclude_none=True, exclude_unset=True) | call
    except ValidationError as error:
        raise UserError(one_line(error, _Notes, str(path))) from error
