"""The pictures that no training saw, which come with the weights: prompts, true pictures and galleries.

The order is fixed: shuffled once, flags last. Case i shows picture i of those that are no flags, on a background of its
own; behind the last one they begin again, on the next background.

Letters: N cases, S = 64 pixels, G pictures of a gallery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from harness import checkpoints
from harness.errors import UserError
from harness.spec import CALIBRATION_SEEDS, Case
from harness.zoo.emoji.pictures import BACKGROUNDS, FLAGS, Item, Pictures, caption, colours, compose

WEIGHTS = Path(__file__).resolve().parent / "weights" / "pictures.safetensors"
SCENES = "emoji"  # what the model's harness.json says
COUNT = 440  # held-out pictures that are no flags
GALLERY = 61  # pictures that a true one is looked for among
_SEED = 0


@cache
def _stored() -> tuple[Pictures, tuple[tuple[str, str], ...]]:
    """The pictures, and (style, name) of the training pictures that calibration takes its captions from."""
    try:
        tensors, facts = checkpoints.load(WEIGHTS)
    except (FileNotFoundError, checkpoints.CheckpointError) as error:
        raise UserError(f"the held-out pictures of `emoji` cannot be loaded: {error}") from error
    items = tuple(Item(**row) for row in facts["items"])
    pairs = tuple((str(style), str(name)) for style, name in facts["calibration"])
    return Pictures(items, tensors["webp"].numpy().tobytes()), pairs


@cache
def digest() -> str:
    """sha256 of the file that holds them."""
    return hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()


def pictures() -> Pictures:
    return _stored()[0]


@cache
def order() -> tuple[int, ...]:
    """All of them, shuffled, flags last."""
    items = pictures().items
    shuffled = np.random.Generator(np.random.Philox(_SEED)).permutation(len(items)).tolist()
    return tuple(sorted(shuffled, key=lambda row: items[row].category == FLAGS))


@cache
def _evaluated() -> tuple[int, ...]:
    return tuple(row for row in order() if pictures().items[row].category != FLAGS)


@cache
def _first_backgrounds() -> tuple[int, ...]:
    rng = np.random.Generator(np.random.Philox(_SEED + 1))
    return tuple(rng.integers(len(BACKGROUNDS), size=len(pictures().items)).tolist())


def _background(place: int, turn: int) -> str:
    return list(BACKGROUNDS)[(_first_backgrounds()[place] + turn) % len(BACKGROUNDS)]


def background(row: int) -> str:
    """The background on which a picture is first shown."""
    return _background(order().index(row), 0)


def cases(split: Literal["evaluation", "calibration"], count: int) -> tuple[Case, ...]:
    """Captions of held-out pictures, or, to tune on, of training pictures whose emoji is in no held-out one."""
    rows, made = _evaluated(), []
    for i in range(count):
        if split == "evaluation":
            turn, place = divmod(i, len(rows))
            item, on = pictures().items[rows[place]], _background(place, turn)
            data = {"emoji": rows[place], "style": item.style, "background": on, "split": split}
            made.append(Case(i, caption(item.style, item.name, on), seed=i, data=data))
        else:
            pairs = _stored()[1]
            turn, place = divmod(i, len(pairs))
            on = list(BACKGROUNDS)[(place + turn) % len(BACKGROUNDS)]
            made.append(Case(i, caption(*pairs[place], on), seed=CALIBRATION_SEEDS + i, data={"split": split}))
    return tuple(made)


def shows(cases: Sequence[Case]) -> bool:
    """Whether every case has a held-out picture."""
    return all("emoji" in case.data for case in cases)


def brings(facts: Mapping[str, Any]) -> bool:
    """Whether a model with these facts was trained on the pictures that these were held out from."""
    return facts.get("scenes") == SCENES


def drawn(rows: Sequence[int], backgrounds: Sequence[str]) -> tuple[Tensor, Tensor]:
    """These pictures as references, on backgrounds: images (N, 3, S, S) in 0..1 and coverage (N, S, S)."""
    return compose(pictures().rgba(rows), colours(backgrounds))


def true_pictures(cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
    """What the cases' captions describe: images (N, 3, S, S) in 0..1 and coverage (N, S, S)."""
    return drawn([case.data["emoji"] for case in cases], [case.data["background"] for case in cases])


def reference() -> Tensor:
    """All that are no flags, each on its first background: (COUNT, 3, S, S) in 0..1."""
    return drawn(_evaluated(), [background(row) for row in _evaluated()])[0]


def gallery(case: Case) -> tuple[int, ...]:
    """The pictures (G,) that a case's image is compared with: the true one first, then others of its style, the same
    for all cases of the style but for the true one itself."""
    true = int(case.data["emoji"])
    style = pictures().items[true].style
    others = [row for row in _evaluated() if pictures().items[row].style == style and row != true]
    return (true, *others[: GALLERY - 1])
