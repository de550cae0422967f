"""A report's page as a browser reads it."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Page(HTMLParser):
    """Scripts by their type, all attributes, and the text outside of scripts."""

    def __init__(self, index: Path) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.inside = False
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(index.read_text(encoding="utf-8"))
        self.data: dict[str, Any] = next(
            json.loads(text) for own, text in self.scripts if own.get("id") == "report-data"
        )

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.inside = tag == "script"
        self.attributes += attributes
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            own, text = self.scripts[-1]
            self.scripts[-1] = own, text + data

    def values(self, group: int) -> Any:
        return next(json.loads(text) for own, text in self.scripts if own.get("id") == f"values-{group}")
