"""A report in a browser, from disk: every tab, no message on its console, no request but for its own files."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE, make_run

from results import open_run
from results.report.write import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
NAME = "<i onclick=alert(1)>m</i>&"
PATIENCE_MS = 180_000  # beside other work on few cores, a plot takes far longer than its second
TABS = ("verdict", "front", "pictures", "inside", "cost", "records")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        try:
            found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium (on the PATH: {CHROMIUM}): {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder / "mine", prompt=HOSTILE, settings={"note": HOSTILE}, failed=True, name=NAME)


@pytest.fixture(scope="module")
def index(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    other = make_run(tmp_path_factory.mktemp("runs") / "bare", model="another", images=False, maps=False, cases=9)
    return write_report([run, other])


@contextmanager
def opened(browser: Any, index: Path, **options: Any) -> Iterator[Any]:
    """The page; fails on whatever it logs, on an error, and on a request for anything but its own files."""
    context = browser.new_context(accept_downloads=True, **options)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
    own = (index.parent.as_uri(), "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(own) else heard.append(request.url))
    page.on("requestfailed", lambda request: heard.append(f"failed: {request.url}"))
    page.goto(index.as_uri())
    yield page
    assert heard == [] and "run" not in page.title()
    context.close()


def test_every_tab(browser: Any, index: Path, run: Path, tmp_path: Path) -> None:
    with opened(browser, index) as page:
        assert page.evaluate("scrollY") == 0
        for tab in TABS:
            page.click(f"#tab-{tab}")
            assert page.url.endswith(f"#/{tab}")
            assert [name for name in TABS if page.is_visible(f"#{name}")] == [tab]

        page.click("#tab-front")
        page.wait_for_selector("#front-plot .scatterlayer .point")
        legend = " ".join(page.locator("#front-plot .legendtext").all_text_contents())
        assert f"{NAME}1" in legend
        for cost in ("latency_ratio", "energy_j"):
            page.select_option("#front-cost", cost)
            page.wait_for_selector(f"#front-plot :text('{'latency' if cost[0] == 'l' else 'energy'}')")
        page.select_option("#front-metric", "alignment")
        page.select_option("#front-by", "tie")
        page.wait_for_selector("#front-plot :text('shares first place')")
        page.locator("#front-plot .scatterlayer .point").first.hover(force=True)
        page.wait_for_selector("#card:visible")
        page.locator("#front-plot .scatterlayer .point").first.click(force=True)
        page.wait_for_selector("#pictures:visible #stage")

        assert page.inner_text("#prompt") == HOSTILE.replace("\u2028", " ") or HOSTILE in page.text_content("#prompt")
        assert page.locator("#pictures img[src=x]").count() == 0
        slider = page.locator("#slider")
        before = page.evaluate("document.querySelector('#stage .over').style.clipPath")
        slider.focus()
        slider.press("ArrowRight")
        assert page.evaluate("document.querySelector('#stage .over').style.clipPath") != before
        for mode in ("pair", "flicker", "difference"):
            page.click(f"#mode-{mode}")
            page.wait_for_selector(f"#stage.{mode} img.over")
        page.click("#flicker-run") if page.is_visible("#flicker-run") else None
        page.fill("#prompt-filter", "onerror")
        assert page.locator(".cases button").count() == 1
        page.fill("#prompt-filter", "")
        page.select_option("#pictures select >> nth=2", "truth[judge]")
        own, dense = (open_run(run).records[i].estimates["truth[judge]"].values for i in (2, 0))
        page.select_option("#pictures select >> nth=0", "2")
        worst = max(range(12), key=lambda row: own[row] - dense[row])
        assert page.locator(".cases button").first.get_attribute("data-row") == str(worst)

        page.click("#tab-inside")
        page.wait_for_selector(".token-maps .cell")
        page.click("#tab-cost")
        page.wait_for_selector("#cost-plot .barlayer .point")

        page.click("#tab-records")
        page.fill("#record-filter", f"{NAME}1")
        assert page.locator(".records-table tbody tr").count() == 2
        with page.expect_download() as waiting:
            page.click("#csv")
        waiting.value.save_as(tmp_path / "records.csv")
        with open(tmp_path / "records.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            record = next(record for record in open_run(run).records if record.key == row["key"])
            assert float(row["truth[judge]"]) == record.estimates["truth[judge]"].value
        assert [row["method"] for row in rows] == [f"{NAME}1"] * 2
        page.click("#detail-3")
        assert f"--methods '{NAME}1'" in page.inner_text(".records-table .detail")


def test_keys_themes_and_workloads(browser: Any, index: Path) -> None:
    with opened(browser, index, color_scheme="dark") as page:
        assert page.inner_text("#theme") == "Light"
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
        page.focus("#tab-verdict")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == "tab-front" and page.is_visible("#front")
        page.keyboard.press("End")
        assert page.is_visible("#records")
        page.select_option("#group", "1")
        page.click("#tab-pictures")
        assert page.inner_text("#missing").startswith("45 of 45 pictures")
        assert page.locator("#stage .empty").count() == 2 and page.locator("#pictures img").count() == 0
        page.click("#tab-verdict")
        assert [each.is_visible() for each in page.locator("[data-group]").all()] == [False, True]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(browser: Any, index: Path, width: int) -> None:
    with opened(browser, index, viewport={"width": width, "height": 800}) as page:
        for tab in TABS:
            page.click(f"#tab-{tab}")
            page.wait_for_timeout(50)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab


def test_plots_keep_their_height_when_the_window_changes(browser: Any, index: Path) -> None:
    with opened(browser, index, viewport={"width": 390, "height": 800}) as page:
        for tab, other in (("front", 420), ("cost", 390)):
            page.click(f"#tab-{tab}")
            plot = page.locator(f"#{tab}-plot .main-svg").first
            before = plot.bounding_box()
            page.set_viewport_size({"width": other, "height": 700})
            changed = f"box => document.querySelector('#{tab}-plot .main-svg').clientWidth != box.width"
            page.wait_for_function(changed, arg=before)
            assert plot.bounding_box()["height"] == before["height"], tab


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_level_aa(browser: Any, index: Path, scheme: str) -> None:
    with opened(browser, index, color_scheme=scheme, bypass_csp=True) as page:
        for tab in TABS:
            page.click(f"#tab-{tab}")
            page.wait_for_timeout(1500 if tab in ("front", "cost", "inside") else 100)
            assert not violations(page), f"{tab}: " + "\n".join(violations(page))


def violations(page: Any) -> list[str]:
    """What axe finds on the page as it is, a line for each element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    tags = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]
    found = axe.Axe().run(page, options={"runOnly": {"type": "tag", "values": tags}}).response["violations"]
    return [f"{one['id']}: {node['html'][:160]} {node['any'][:1]}" for one in found for node in one["nodes"][:3]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with a metric that the paper has, too, and an interval many times as long as the rest."""
    return write_report([make_run(tmp_path_factory.mktemp("runs") / "mine", fid=True, wild=True, maps=False)])


def show_front(page: Any, metric: str) -> None:
    page.click("#tab-front")
    page.select_option("#front-cost", "latency_ratio")
    page.select_option("#front-metric", metric)
    page.wait_for_selector("#front-plot .scatterlayer .point")


def plotted(page: Any) -> dict[str, Any]:
    """Titles, legend, arrows and the end of the cost axis in the plot of the front."""
    found: dict[str, Any] = page.evaluate(
        """() => {
          const plot = document.getElementById("front-plot");
          const text = (of) => [...plot.querySelectorAll(of)].map((e) => e.textContent);
          return {
            titles: text(".xtitle, .ytitle"), legend: text(".legendtext"), end: plot.layout.xaxis.range[1],
            arrows: plot.data.filter((t) => Array.isArray(t.marker?.symbol)).flatMap((t) => t.marker.symbol),
          };
        }"""
    )
    return found


COVERED = """() => {
  const box = (e) => e.getBoundingClientRect(), frame = box(document.querySelector("#front-plot .nsewdrag"));
  const found = (of) => [...document.querySelectorAll("#front-plot .scatterlayer " + of)];
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  const wide = (a) => a.left >= frame.left && a.right <= frame.right;
  const inside = (a) => wide(a) && a.top >= frame.top && a.bottom <= frame.bottom;
  const labels = found(".textpoint text"), points = found(".point");
  const free = (e) => [...labels, ...points].every((other) => other === e || apart(box(e), box(other)));
  return labels.filter((e) => !inside(box(e)) || !free(e)).map((e) => e.textContent);
}"""
"""Labels in the plot of the front that are cut, or cover another label or a point."""


def test_an_interval_that_is_cut_off_ends_in_an_arrow(browser: Any, published: Path) -> None:
    with opened(browser, published) as page:
        show_front(page, "alignment")
        assert not page.locator("#front-published").count()  # the paper has no such metric
        found = plotted(page)
        assert found["arrows"] == ["triangle-right"] and found["end"] < 2  # of an interval up to 40
        assert "an arrow: it goes on beyond the axis" in page.inner_text("#front")
        row = page.inner_text("[aria-label='Points of this front'] tr:has-text('[0.5, 40]')")
        assert row.startswith("method0 33.3 %")
        page.select_option("#front-cost", "gmacs")
        page.wait_for_selector("#front-plot .scatterlayer .point")
        assert not plotted(page)["arrows"] and "arrow" not in page.inner_text("#front")


def test_published_points(browser: Any, published: Path) -> None:
    with opened(browser, published) as page:
        show_front(page, "fid[judge]")
        before = plotted(page)
        assert not page.is_checked("#front-published") and "PixArt" not in page.inner_text("#front")
        page.check("#front-published")
        page.wait_for_selector("#front-plot .scatterlayer .textpoint")
        rows = page.inner_text("[aria-label='Published points'] tbody")
        assert "DiffCR-LT 20 %\tPixArt-Sigma fine-tuned\t0.7974\t0.8952" in rows
        assert "ToMe 20 %\tPixArt-Sigma fine-tuned (inferred)" in rows
        assert page.is_visible("#published-note")
        shown = plotted(page)
        assert any("fid[judge] / dense" in title for title in shown["titles"])
        assert shown["arrows"] == before["arrows"] and shown["legend"][: len(before["legend"])] == before["legend"]
        assert any("published" in name for name in shown["legend"])
        assert {"1", "2", "5", "10", "20"} <= set(page.locator("#front-plot .ytick").all_text_contents())
        page.uncheck("#front-published")
        page.wait_for_selector("#published-note", state="detached")
        page.wait_for_selector("#front-plot .scatterlayer .point")
        assert plotted(page) == before and not page.locator("#front-plot .textpoint").count()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_published_points_are_level_aa(browser: Any, published: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 800}
    with opened(browser, published, color_scheme=scheme, bypass_csp=True, viewport=size) as page:
        show_front(page, "fid[judge]")
        page.check("#front-published")
        page.wait_for_selector("#front-plot .scatterlayer .textpoint")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not page.evaluate(COVERED)
        assert not violations(page), "\n".join(violations(page))
