"""Plots and image grids: files, what they show, and where labels go."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from results import Record, Table
from results.files import slug
from results.plots import image_grid as image_grid_module
from results.plots import pareto_plot
from results.plots.image_grid import image_grid
from results.plots.label_placement import along, place
from results.plots.look import looks
from results.plots.pareto_plot import DENSE, pareto_figure, write_plots
from results.plots.window import window


def only(table: Table, *metrics: str) -> Table:
    """The table with gmacs and the named metrics alone, which keeps drawing quick."""
    kept = {"gmacs", *metrics}
    return Table(
        r.model_copy(update={"estimates": {k: e for k, e in r.estimates.items() if k in kept}}) for r in table.records
    )


def test_files_are_images_and_reproducible(table, tmp_path):
    small = only(table, "kid-shapes-judge")
    settings = dict(matplotlib.rcParams)
    png, svg = write_plots(small, tmp_path)
    assert dict(matplotlib.rcParams) == settings  # no global state is left changed
    assert [png.name, svg.name] == ["pareto_gmacs_vs_kid-shapes-judge.png", "pareto_gmacs_vs_kid-shapes-judge.svg"]
    with Image.open(png) as image:
        assert image.size == (1472, 864)
        colours = {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 24)}
    assert (0, 0x72, 0xB2) in colours and (0xD5, 0x5E, 0) in colours
    first = png.read_bytes(), svg.read_bytes()
    write_plots(small, tmp_path)
    assert (png.read_bytes(), svg.read_bytes()) == first
    assert svg.read_text().startswith("<?xml")


def test_every_cost_meets_every_metric(table, tmp_path, monkeypatch):
    monkeypatch.setattr("results.plots.pareto_plot._images", lambda *_: iter([("png", b"drawn")]))
    names = {path.name for path in write_plots(table, tmp_path)}
    assert names == {
        f"pareto_{cost}_vs_{metric}.png"
        for cost in ("gmacs", "latency_ratio", "peak_memory_mb")
        for metric in ("kid-shapes-judge", "alignment")
    }


def test_groups_are_drawn_apart(table, tmp_path, monkeypatch):
    monkeypatch.setattr("results.plots.pareto_plot._images", lambda *_: iter([("png", b"drawn")]))
    small = only(table, "alignment")
    other = [r.model_copy(update={"fingerprint": {"weights": "other"}}) for r in small.records]
    names = [path.name for path in write_plots(Table([*small.records, *other]), tmp_path)]
    assert names == ["pareto_gmacs_vs_alignment.png", "pareto_gmacs_vs_alignment_group-2.png"]


def test_a_figure_says_what_it_shows(table):
    figure = pareto_figure(table, "latency_ratio", "alignment", table.pareto("latency_ratio", "alignment"))
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert [t for t in texts if t.endswith("%")].count("20 %") == 3 and "dense" in texts
    assert "method / dense" in axes.get_xlabel() and "interleaved pairs" in figure.get_supxlabel().replace("\n", " ")
    assert "higher is better" in axes.get_ylabel()
    assert "n = 24" in figure.get_supxlabel()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:5] == ["diffcr", "uniform", "tome", "fbcache", "dense"]
    figure.draw_without_rendering()
    assert legend.get_window_extent().x0 > axes.bbox.x1  # outside, so that it hides no point


def test_the_front_is_drawn_as_steps(table):
    points = table.pareto("gmacs", "kid-shapes-judge")
    (axes,) = pareto_figure(table, "gmacs", "kid-shapes-judge", points).axes
    (steps,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
    best = points[points["on_front"]].sort_values("cost")
    np.testing.assert_array_equal(steps.get_xydata(), best[["cost", "quality"]].to_numpy())


def test_looks_differ_by_colour_and_marker_and_dense_is_black(record):
    chosen = looks(Table([record(DENSE), *(record(f"m{i}") for i in range(56))]))
    assert len(set(chosen.values())) == 57
    assert (chosen[DENSE].colour, chosen[DENSE].marker) == ("black", "*")


def test_odd_names_and_single_points_draw_without_warnings(record, estimate, tmp_path):
    estimates = {"gmacs": estimate(3.0, n=1), "a/b $x$ _": estimate(0.5, role="quality", better="lower", n=1)}
    table = Table([record("_m$1", None, estimates=estimates)])
    assert [path.name for path in write_plots(table, tmp_path)] == [
        "pareto_gmacs_vs_a-b-x-_.png", "pareto_gmacs_vs_a-b-x-_.svg"
    ]  # fmt: skip
    assert write_plots(Table([]), tmp_path) == []


@pytest.mark.parametrize(
    ("name", "expected"), [("kid-shapes", "kid-shapes"), ("../etc/pass wd", "etc-pass-wd"), ("β", "unnamed")]
)
def test_slug(name, expected):
    assert slug(name) == expected


def test_labels_avoid_points_and_each_other():
    points = np.array([[50.0, 50.0], [58.0, 50.0], [50.0, 58.0]])
    obstacles = np.hstack([points - 3, points + 3])
    size = np.tile([20.0, 8.0], (3, 1))
    centres = place(points, size, obstacles, (0, 0, 100, 100), gap=4)
    boxes = [*np.hstack([centres - size / 2, centres + size / 2]), *obstacles]
    for i in range(3):
        for j in range(i + 1, len(boxes)):
            low, high = np.maximum(boxes[i][:2], boxes[j][:2]), np.minimum(boxes[i][2:], boxes[j][2:])
            assert (high <= low).any(), (i, j)


def test_labels_stay_in_the_frame():
    ((x, y),) = place([[99.0, 99.0]], [[20.0, 8.0]], [], (0, 0, 100, 100), gap=2)
    assert x + 10 <= 100 and y + 4 <= 100


def test_labels_without_room_are_left_out():
    centres = place(np.full((30, 2), 50.0), np.tile([20.0, 8.0], (30, 1)), [], (0, 0, 100, 100), gap=4)
    shown = centres[~np.isnan(centres).any(axis=1)]
    assert 4 <= len(shown) <= 8
    for i, one in enumerate(shown):
        shared = np.maximum([20.0, 8.0] - np.abs(shown[i + 1 :] - one), 0).prod(axis=1)
        assert (shared <= 0.25 * 160).all()


def test_boxes_along_a_line():
    boxes = along([[0.0, 0.0], [10.0, 0.0]], spacing=5, radius=1)
    assert boxes[0].tolist() == [-1, -1, 1, 1] and boxes[-1].tolist() == [9, -1, 11, 1]
    assert len(along([[3.0, 4.0]], spacing=5, radius=1)) >= 1


def pixels_of(path) -> np.ndarray:
    """The image as (H, W, 3) integers."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("width", [64, 128, 200])
def test_captions_are_no_wider_than_their_image(width):
    for text in ("twemoji hammer on black", "WWWW MMMM WWWW MMMM", "il " * 40, "supercalifragilistic " * 3, ""):
        lines = image_grid_module._wrap(text, image_grid_module._font(), width)
        assert all(image_grid_module._font().getlength(line) <= width for line in lines) and len(lines) <= 6
    assert image_grid_module._wrap("a b c", image_grid_module._font(), width) == ["a b c"]


def test_image_grid(tmp_path):
    def save(name, colour, size=(64, 64)):
        Image.new("RGB", size, colour).save(tmp_path / name)
        return tmp_path / name

    red, blue = save("red.png", (255, 0, 0)), save("blue.png", (0, 0, 255))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    rows = [("dense", [red, blue, red]), ("diffcr 20 %", [red, tmp_path / "missing.png", broken]), ("short", [None])]
    path = image_grid(rows, ["a red square", "a blue one " * 20, "third"], tmp_path / "out" / "grid.png")
    pixels = pixels_of(path)
    assert (pixels == [255, 0, 0]).all(axis=2).sum() == 3 * 128 * 128
    assert (pixels == [0, 0, 255]).all(axis=2).sum() == 128 * 128
    narrow = image_grid(rows, ["a red square", "a blue one", "third"], tmp_path / "narrow.png", max_columns=1)
    assert pixels_of(narrow).shape[1] < pixels.shape[1] - 2 * 128


def test_enlarging_invents_no_pixels_and_large_images_are_reduced(tmp_path):
    checks = (np.indices((48, 48)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "small.png")
    path = image_grid([("", [tmp_path / "small.png"])], [""], tmp_path / "grid.png")
    shown = pixels_of(path)[:, :, 0]
    assert set(np.unique(shown)) == {0, 255}
    assert (shown == 0).sum() == 144 * 144 // 2  # three times 48
    Image.new("RGB", (1024, 512), "red").save(tmp_path / "large.png")
    path = image_grid([("", [tmp_path / "large.png"])], [""], tmp_path / "grid.png")
    reds = (pixels_of(path) == [255, 0, 0]).all(axis=2).sum()
    assert reds == pytest.approx(384 * 192, rel=0.01)


def test_an_empty_grid_is_refused(tmp_path):
    for rows, captions in (([], ["a"]), ([("a", [])], [])):
        with pytest.raises(ValueError, match="at least one"):
            image_grid(rows, captions, tmp_path / "grid.png")


def test_the_package_needs_no_torch_and_nothing_else_of_ours():
    code = (
        "import sys, results, results.plots.pareto_plot; ours = {'harness', 'methods', 'tasks', 'torch', 'diffusers'}; "
        "print(sorted(ours & set(sys.modules)), 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"


def test_plots_shared_with_a_second_process_are_the_same(table, tmp_path, monkeypatch):
    alone = pareto_plot.write_plots(table, tmp_path / "alone")
    monkeypatch.setattr(pareto_plot, "MANY", 2)
    shared = pareto_plot.write_plots(table, tmp_path / "shared")
    assert [path.name for path in shared] == [path.name for path in alone] and len(alone) > 4
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(alone, shared, strict=True))
    monkeypatch.setattr(pareto_plot, "_CHILD", "raise SystemExit(1)")
    lost = pareto_plot.write_plots(table, tmp_path / "lost")
    assert sorted(path.name for path in lost) == sorted(path.name for path in alone)
    assert all(path.is_file() for path in lost)


def test_one_interval_that_is_many_times_as_long_does_not_set_the_axis(record, estimate):
    def point(method: str, ratio: float | None, value: float, half: float, **more: Any) -> Record:
        quality = estimate(value, low=value - half, high=value + half, role="quality", better="higher", unit="share")
        cost = estimate(more.get("cost", 1.0), low=more.get("low"), high=more.get("high"), role="cost", unit="GMACs")
        return record(method, ratio, estimates={"alignment": quality, "gmacs": cost})

    points = [point("dense", None, 1.0, 0.02), point("a", 0.1, 0.98, 0.02), point("a", 0.2, 0.95, 0.03)]
    wild = point("b", 0.2, 0.9, 3.0, cost=0.8, low=-90.0, high=0.9)
    for some, cut in ((points, False), ([*points, wild], True)):
        table = Table(some)
        figure = pareto_figure(table, "gmacs", "alignment", table.pareto("gmacs", "alignment"))
        (axes,) = figure.axes
        (least, most), (left, right) = axes.get_ylim(), axes.get_xlim()
        assert 0.8 < least < 0.9 + 0.04 and 1.02 < most < 1.1 and right > 1 and (not cut or left > 0.5)
        arrows = sorted(line.get_marker() for line in axes.lines if line.get_marker() in (*"<>^v",) and cut)
        assert arrows == (["<", "^", "v"] if cut else [])
        assert ("an arrow: it goes on beyond the axis" in figure.get_supxlabel().replace("\n", " ")) == cut
    assert window([1, 1.01, 0.99], [0, 0, 0], [2, 2, 2]) is None  # all long: the differences say little
    assert window([1.0], [None], [None]) is None and window([1, 2], [None, None], [None, None]) is None
