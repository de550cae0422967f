"""What the site does to pages that are written for the repository: called by MkDocs, see mkdocs.yml."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FROM_ROOT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files beside docs/ that are pages of the site, too."""

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside of docs/."""
    from mkdocs.structure.files import File

    for source, page in FROM_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, ROOT)))
    return files


def on_page_markdown(text: str, page: Any, **_: Any) -> str:
    """Mend links that lead out of docs/; generated pages have theirs mended already."""
    return text if page.file.src_uri in FROM_ROOT.values() else relinked(text, ROOT / "docs")


def relinked(text: str, folder: Path) -> str:
    """Markdown of a file in `folder` with links that hold on the site: to a page where there is one; what is in the
    repository alone keeps its words and is no link. Raises FileNotFoundError for a link to nothing."""

    def mended(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(folder.relative_to(ROOT).as_posix(), target))
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"link to {target}: there is no {path}")
        if path in FROM_ROOT:
            return f"[{words}]({FROM_ROOT[path]}{anchor})"
        return f"[{words}]({path.removeprefix('docs/')}{anchor})" if path.startswith("docs/") else words

    return _LINK.sub(mended, text)
