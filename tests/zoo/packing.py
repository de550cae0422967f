"""Pictures of emoji as a build packs them, made up, and an interruption."""

from pathlib import Path

from harness.zoo.emoji import held_out, pictures


class Stop(Exception):
    """The kill."""


def packed(folder: Path, count: int = 6) -> Path:
    """Some of the held-out pictures as if they were for training."""
    kept = held_out.pictures()
    files = [
        (
            {"style": one.style, "name": one.name, "category": one.category, "code": one.code, "split": "train"},
            kept.data[one.at : one.at + one.bytes],
        )
        for one in kept.items[:count]
    ]
    pictures.save(pictures.packed(files), folder)
    return folder
