"""Text files of a user's, as editors everywhere write them, and what a prompt may be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.errors import UserError


def read(path: Path, what: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, its line ends as they are. Raises UserError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} cannot be read: {error}") from error


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, stripped, each with its number. They end at a newline alone: what else Python's
    `splitlines` takes for an end (form feeds, U+2028) belongs to the text."""
    for number, line in enumerate(text.split("\n"), 1):
        if stripped := line.strip():
            yield number, stripped


def prompt(text: object, where: str) -> str:
    """A prompt, stripped. Raises UserError for one that is no text, is empty, or that no file can hold."""
    if not isinstance(text, str):
        raise UserError(f"{where} needs file_name and text, both of them text")
    if not (stripped := text.strip()):
        raise UserError(f"{where} has an empty text; a prompt has to say something")
    if "\0" in stripped:
        raise UserError(f"{where} holds a NUL character; save the file as UTF-8 text")
    try:
        stripped.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where} holds half of a surrogate pair, which is no character") from None
    return stripped
