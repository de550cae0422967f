"""Reports: what is embedded, groups, placeholders, refusals. What a browser makes of them: test_report_pages."""

import base64
import hashlib
import json
import re
import shlex
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_page import Page
from report_runs import HOSTILE, make_run
from support import command as main

from results import open_run
from results.report import write as report_write
from results.report.commands import command
from results.report.page import embedded
from results.report.write import ReportError, size, write_report
from results.tables.published import published
from results.tables.step_costs import TASK as STEP


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "mine", prompt=HOSTILE, settings={"note": HOSTILE}, failed=True)


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page(write_report([run]))


def test_numbers_are_those_of_the_store(run: Path, page: Page) -> None:
    (group,) = page.data["groups"]
    stored = {record.key: record for record in open_run(run).records}
    assert {point["key"] for point in group["points"]} == set(stored)
    values = page.values(0)
    for index, point in enumerate(group["points"]):
        record = stored[point["key"]]
        known = record.estimates if record.usable else {}
        expected = {n: [e.value, e.low, e.high, e.sample_size] for n, e in known.items()}
        assert point["estimates"] == expected
        if record.usable:
            assert values["truth[judge]"][index] == pytest.approx(record.estimates["truth[judge]"].values, rel=1e-5)
    fronts = open_run(run).pareto("gmacs", "alignment").set_index("key")
    for index, (on, _) in group["fronts"]["gmacs|alignment"].items():
        assert on == fronts.loc[group["points"][int(index)]["key"], "on_front"]
    (section,) = open_run(run).verdict().sections
    words = {(one.method, one.word) for block in section.blocks for one in block.to_dense}
    assert words == {(o["point"], o["word"]) for b in group["verdict"]["blocks"] for o in b["to_dense"]}
    assert group["costs"] == ["gmacs", "latency_ratio", "energy_j"]


def test_what_data_says_is_shown_and_never_run(run: Path, page: Page) -> None:
    text = (run / "report" / "index.html").read_text()
    assert "<img" not in text.split("<script>")[0] and "</script><b>" not in text and "\u2028" not in text
    assert page.data["groups"][0]["cases"][0][0] == HOSTILE
    assert page.data["groups"][0]["points"][1]["settings"]["note"] == HOSTILE
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [value for name, value in page.attributes if name in ("src", "href") and value != "#main"]
    assert json.loads(embedded({"a": "</script>&<!--"})) == {"a": "</script>&<!--"}
    assert not set("<>&") & set(embedded(["</script>&<!--"]))
    with pytest.raises(ValueError):
        embedded(float("nan"))


def test_the_policy_allows_this_script_alone(page: Page) -> None:
    policy = next(value for _, value in page.attributes if value and value.startswith("default-src"))
    code = [text for own, text in page.scripts if not own]
    assert len(code) == 1
    digest = base64.b64encode(hashlib.sha256(code[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' 'strict-dynamic'" in policy
    assert "default-src 'none'" in policy and "connect-src 'none'" in policy
    assert "innerHTML" not in code[0] and "http:" not in code[0] and "https:" not in code[0]


def test_warnings(page: Page) -> None:
    (group,) = page.data["groups"]
    text = "\n".join(group["warnings"])
    assert "1 of 5 points failed: method0 33.3 % (ran out of <memory>)." in text
    assert re.search(r"Versions differ in commit: ab. \(3 points\), ab. \(2 points\)\.", text)


def test_workloads_stand_apart(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", model="another", cases=9, maps=False)
    found = Page(write_report([run, other, run], tmp_path / "both"))
    assert [group["runs"] for group in found.data["groups"]] == [["mine"], ["other"]]
    assert [group["n"] for group in found.data["groups"]] == [12, 9]
    assert "select" in found.tags and len(list((tmp_path / "both" / "images").iterdir())) == 10
    assert str(tmp_path) not in (tmp_path / "both" / "index.html").read_text()  # nothing of this machine


def test_pictures_that_are_gone_are_counted(tmp_path: Path) -> None:
    bare = make_run(tmp_path / "bare", images=False, maps=False)
    found = Page(write_report([bare]))
    assert found.data["facts"]["missing"] == found.data["groups"][0]["missing"] == 5 * 12
    assert all(point["pictures"] is None for point in found.data["groups"][0]["points"])
    some = make_run(tmp_path / "some", maps=False)
    record = open_run(some).records[0]
    (some / record.images[3]).unlink()
    found = Page(write_report([some]))
    assert found.data["groups"][0]["points"][0]["pictures"]["gone"] == [3]
    assert any(note.startswith("1 of 60 pictures are not there") for note in found.data["groups"][0]["warnings"])


def test_a_picture_outside_of_the_run_counts_as_missing(tmp_path: Path) -> None:
    some = make_run(tmp_path / "some", maps=False)
    record = open_run(some).records[0]
    outside = tmp_path / "secret.png"
    shutil.copy(some / record.images[0], outside)
    (some / record.images[0]).unlink()
    (some / record.images[0]).symlink_to(outside)
    found = Page(write_report([some]))
    assert found.data["groups"][0]["points"][0]["pictures"]["gone"] == [0]


def test_the_size_is_that_of_the_folder(run: Path, page: Page) -> None:
    folder = run / "report"
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert page.data["facts"]["size"] == size(total)
    assert [size(n) for n in (999, 1000, 12_345_678, 999_999_999_999_999)] == [
        "999 B",
        "1 kB",
        "12.3 MB",
        "1,000,000 GB",
    ]


def test_a_report_replaces_an_earlier_one_and_nothing_else(run: Path, page: Page, tmp_path: Path) -> None:
    stale = run / "report" / "images" / "old"
    stale.mkdir()
    write_report([run])
    assert not stale.exists() and open_run(run).images(open_run(run).records[0]) is not None
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ReportError, match="holds something else than a report"):
        write_report([run], tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_old_records_and_costs_alone_have_a_report(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(Path(__file__).parent / "data" / "schema-1.sqlite", old / "store.sqlite")
    found = Page(write_report([old]))
    assert any("older schema" in note for note in found.data["groups"][0]["warnings"])


def test_the_verdict_of_fidelity_alone(tmp_path: Path, run: Path) -> None:
    """Dense has no figure of the headline, so nothing is compared with it."""
    from results.run_folder import RunFolder

    with RunFolder.grow(tmp_path / "fidelity", {}) as folder:
        for record in open_run(run).records:
            left = {name: e for name, e in record.estimates.items() if name in ("psnr_to_dense", "gmacs")}
            folder.put(record.model_copy(update={"estimates": left, "images": [], "token_maps": ""}))
    found = Page(write_report([tmp_path / "fidelity"]))
    assert found.data["groups"][0]["verdict"]["fidelity"]
    assert "That is no quality" in (tmp_path / "fidelity" / "report" / "index.html").read_text()


def test_attribution_is_read_from_its_table(tmp_path: Path) -> None:
    some = make_run(tmp_path / "some", maps=False)
    key = open_run(some).records[1].key
    row = {"method": "method0", "ratio": 0.3, "seed": "0", "axis": "tokens", "control": "random", "form": "swapped",
           "metric": "truth[judge]", "difference": -0.2, "low": -0.3, "high": -0.1, "p": 0.01, "n": 12,
           "better": "lower", "unit": "", "key_method": key}  # fmt: skip
    (some / "tables").mkdir()
    pd.DataFrame([row, row | {"key_method": "another"}]).to_csv(some / "tables" / "attribution.csv", index=False)
    (found,) = Page(write_report([some])).data["groups"][0]["attribution"]
    assert (found["axis"], found["seed"], found["low"], found["unit"]) == ("tokens", "0", -0.3, None)


def test_the_command_names_every_setting(run: Path) -> None:
    record = open_run(run).records[1]
    words = shlex.split(command(record, {"model": "shapes", "seed": 3, "metrics": ["a", "b"], "steps": None}))
    assert words[:7] == ["python", "-m", "harness", "run", "--methods", "method0", "--ratios"]
    assert words[words.index("--seed") + 1] == "3" and "--steps" not in words
    assert words[words.index("--metrics") + 1] == "a,b"
    assert f"method0.note={json.dumps(HOSTILE, ensure_ascii=False)}" in words and "--mode" not in words
    timed = {**record.estimates, "latency_ratio[compile]": record.estimates["latency_ratio"]}
    words = shlex.split(command(record.model_copy(update={"estimates": timed}), {}))
    assert words[words.index("--mode") + 1] == "eager,compile"


@pytest.mark.parametrize("case", ["newer", "nowhere", "unwritable", "foreign"])
def test_refusals_are_one_line(
    case: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = [str(run), "--out", str(tmp_path / "out")], ""
    if case == "newer":
        shutil.copytree(run, tmp_path / "newer", ignore=shutil.ignore_patterns("report", "images"))
        with sqlite3.connect(tmp_path / "newer" / "store.sqlite") as store:
            store.execute("PRAGMA user_version = 99")
        words[0], said = str(tmp_path / "newer"), "schema version 99"
    elif case == "nowhere":
        words[0], said = str(tmp_path / "nowhere"), "no run folder"
    elif case == "unwritable":
        (tmp_path / "out").write_text("a file")
        said = "nothing can be written to"
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        said = "holds something else than a report"
    assert main(monkeypatch, "report", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1 and "Traceback" not in error


def test_the_command_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = make_run(tmp_path / "some", methods=1, ratios=1, maps=False)
    assert main(monkeypatch, "report", str(some)) == 0
    assert capsys.readouterr().out == f"written to {some / 'report' / 'index.html'}\n"
    assert sorted(path.name for path in (some / "report").iterdir()) == ["images", "index.html", "plotly.min.js"]


def test_published_points_are_relative_to_the_dense_that_each_was_measured_against(tmp_path: Path) -> None:
    (group,) = Page(write_report([make_run(tmp_path / "run", cases=8, fid=True, maps=False)])).data["groups"]
    rows = {row["name"]: row for row in group["published"]}
    assert rows["DiffCR-LT 20 %"]["dense"] == "PixArt-Sigma fine-tuned" and not rows["DiffCR-LT 20 %"]["inferred"]
    assert rows["DiffCR-LT 20 %"]["fid"] == pytest.approx(10.68 / 11.93)
    assert rows["DiffCR-LT 20 %"]["gmacs"] == pytest.approx(13957.2 / 17361.7)
    assert rows["ToMe 20 %"]["gmacs"] is None and rows["ToMe 20 %"]["inferred"]  # not printed
    assert not any(name.startswith("PixArt-Sigma") for name in rows)  # denses of their own
    assert {row["dense"] for row in published("inpainting")} == {"Lazy Diffusion"}
    assert published("class-conditional") == []


def test_a_long_interval_is_cut_off_on_the_front_and_whole_in_the_table(tmp_path: Path) -> None:
    (group,) = Page(write_report([make_run(tmp_path / "run", cases=8, wild=True, maps=False)])).data["groups"]
    least, most = group["windows"]["latency_ratio"]
    assert set(group["windows"]) == {"latency_ratio"} and least > 0.2 and 1.05 < most < 1.2
    assert group["points"][1]["estimates"]["latency_ratio"][2] == 40


def test_a_report_that_was_interrupted_is_drawn_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(report_write, "page", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_report([run], tmp_path / "out")
    assert any((tmp_path / "out").iterdir())
    assert write_report([run], tmp_path / "out").is_file()


def test_the_command_of_a_profile_names_its_tokens_and_mode(run: Path) -> None:
    record = open_run(run).records[1]
    setup = {"batch": 2, "size": 64, "text_tokens": 300, "mask_tokens": 1024, "mode": "compile"}
    profiled = record.model_copy(update={"task": STEP, "task_settings": setup, "estimates": {}})
    words = shlex.split(command(profiled, {"model": "m", "text_tokens": None, "mask_tokens": 1024}))
    for option, value in (("--mask-tokens", "1024"), ("--mode", "compile"), ("--batch", "2")):
        assert words[words.index(option) + 1] == value
    assert "--text-tokens" not in words  # nobody asked for other ones
