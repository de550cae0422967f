"""The page itself: templates filled, data embedded so that nothing in it can run, and a policy that says so."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

SCRIPTS = ("dom", "charts", "front", "pictures", "inside", "cost", "records", "main")
STYLES = ("base", "verdict", "tabs", "print")
GENERATOR = "dit-efficiency-harness report"
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def embedded(value: Any) -> Markup:
    """Plain data as JSON that no HTML parser can leave: `<`, `>` and `&` are escaped. Raises ValueError for NaN and
    infinities, for which JSON has no word."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign, escaped in _UNSAFE.items():
        text = text.replace(sign, escaped)
    return Markup(text)


def script() -> str:
    """All scripts of the page as one."""
    parts = [_static(f"{name}.js") for name in SCRIPTS]
    return "(() => {\n'use strict';\n" + "\n".join(parts) + "\n})();\n"


def policy(code: str) -> str:
    """Content-Security-Policy: this script, what it loads itself (the plot library beside the page), and pictures; no
    other script, no event handler in markup, no request, no frame, no form. Styles may stand in attributes, which the
    plot library needs."""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return "; ".join(
        (
            "default-src 'none'", f"script-src 'sha256-{digest}' 'strict-dynamic'", "style-src 'unsafe-inline'",
            "img-src 'self' file: data: blob:", "connect-src 'none'", "base-uri 'none'", "form-action 'none'",
        )
    )  # fmt: skip


def page(facts: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> str:
    """The page as HTML. facts: of the whole report. groups: as `results.report.gather.groups` gives them; figures by
    image are embedded apart, and read when pictures are looked at."""
    code = script()
    data = {"facts": facts, "groups": [{k: v for k, v in group.items() if k != "values"} for group in groups]}
    return _environment().get_template("index.html.jinja").render(
        facts=facts, groups=groups, generator=GENERATOR, policy=policy(code), script=Markup(code),
        style=Markup("\n".join(_static(f"{name}.css") for name in STYLES)),
        data=embedded(data), values=[embedded(group["values"]) for group in groups],
    )  # fmt: skip


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("results.report"), autoescape=select_autoescape(("jinja", "html"), default=True),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _static(name: str) -> str:
    return (files("results.report") / "static" / name).read_text(encoding="utf-8")
