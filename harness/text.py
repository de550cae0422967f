"""Text files of a user's, as editors everywhere write them, and what a prompt may be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import UserError


def read(path: Path, what: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, its line ends as they are. Raises UserError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:  # a NUL in the path, for one
        raise UserError(f"{what} {path} cannot be read: {error}") from error


def json_of(text: str | bytes, what: str) -> Any:
    """What a text says in JSON. Raises UserError, also for one that is nested too deeply to be read."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{what} is no JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{what} is no JSON that can be read: it is nested too deeply") from error


def yaml_of(text: str, what: str) -> Any:
    """What a text says in YAML, plain values alone. Raises UserError."""
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:  # a date that there is not, for one
        raise UserError(f"{what} is not YAML of plain values: {' '.join(str(error).split())[:300]}") from error
    except RecursionError as error:
        raise UserError(f"{what} is no YAML that can be read: it is nested too deeply") from error


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
