"""How long a report of a large made-up run takes to draw, how large it is, and how soon its first view is there.

    python benchmarks/report_pages.py                       # 200 points x 256 images
    python benchmarks/report_pages.py --points 20 --cases 64 --keep FOLDER

First view: from the start of the navigation until the verdict is painted (first contentful paint) and the page's load
event has ended, in headless Chromium, from disk; the median of five. Needs playwright and a Chromium. The verdict's
comparisons are most of the time that drawing takes.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from report_runs import make_run

from results.report.write import size, write_report

_METHODS = 5
_PAINT = """() => new Promise((done) => {
  const read = () => {
    const paint = performance.getEntriesByName('first-contentful-paint')[0];
    const load = performance.getEntriesByType('navigation')[0].loadEventEnd;
    paint && load ? done([paint.startTime, load]) : setTimeout(read, 20);
  };
  read();
})"""


def main(
    points: Annotated[int, typer.Option(help="Points beside dense.")] = 200,
    cases: Annotated[int, typer.Option(help="Images per point.")] = 256,
    keep: Annotated[Path | None, typer.Option(help="Folder for the run. [default: a temporary one]")] = None,
) -> None:
    with TemporaryDirectory() as scratch:
        folder = (keep or Path(scratch)) / "run"
        if not folder.exists():
            make_run(folder, _METHODS, points // _METHODS, cases)
        start = time.perf_counter()
        index = write_report([folder])
        print(f"{points} points x {cases} images: drawn in {time.perf_counter() - start:.1f} s")
        files = [path for path in index.parent.rglob("*") if path.is_file()]
        total = sum(path.stat().st_size for path in files)
        print(f"folder: {size(total)} in {len(files)} files; index.html: {size(index.stat().st_size)}")
        _views(index)


def _views(index: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for tab in ("verdict", "front", "pictures"):
            found = []
            for _ in range(5):
                page = browser.new_context().new_page()
                page.goto(f"{index.as_uri()}#/{tab}", wait_until="commit")
                paint, load = page.evaluate(_PAINT)
                ready = {"front": "#front-plot .scatterlayer .point", "pictures": "#stage img", "verdict": "#tab-front"}
                page.wait_for_selector(ready[tab])
                found.append((paint, load, page.evaluate("performance.now()")))
                page.context.close()
            paint, load, drawn = (statistics.median(each) / 1000 for each in zip(*found, strict=True))
            print(f"{tab}: first paint {paint:.2f} s, load {load:.2f} s, drawn {drawn:.2f} s")
        browser.close()


if __name__ == "__main__":
    typer.run(main)
