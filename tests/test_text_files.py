"""Text files as users have them: byte order marks, odd line ends, NULs; names that formulas, Markdown or fonts mind."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import harness
from harness import config, registry, text
from harness.errors import UserError
from harness.models import Model, prompting
from results.plots.image_grid import image_grid
from results.plots.token_maps import token_maps
from results.tables import formatting
from tasks import inpainting_cases, prompts
from tasks.metrics import references

BOM = "\ufeff".encode()
ODD = "a red star\u2028with a form\x0cfeed\x85and more"


def test_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(BOM + f"first\r\n\n  second one \n{ODD}\n".encode())
    assert [case.prompt for case in prompts.from_file(path, 3)] == ["first", "second one", ODD]
    assert len(prompts.from_file(path, 4)) == 3  # all that there are


def coco(folder: Path, caption: str) -> Callable[[], object]:
    path = folder / "captions.json"
    rows = {"annotations": [{"image_id": 1, "id": 7, "caption": caption}]}
    path.write_bytes(BOM + json.dumps(rows).encode())
    return lambda: prompts.from_file(path, 1)[0].prompt


def metadata(folder: Path, caption: str) -> Callable[[], object]:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "metadata.jsonl").write_bytes(BOM + json.dumps({"file_name": "a.png", "text": caption}).encode() + b"\n")
    return lambda: prompts.from_folder(folder, 1)[0].prompt


def pair(folder: Path, caption: str) -> Callable[[], object]:
    for name in ("a.png", "a_mask.png"):
        Image.new("RGB", (8, 8), "white").save(folder / name)
    (folder / "a.txt").write_bytes(BOM + caption.encode("utf-8", "surrogatepass"))
    return lambda: inpainting_cases.from_folder(folder, slice(1), 8, binarize=False)[0].prompt


def masked(folder: Path, caption: str) -> Callable[[], object]:
    read = pair(folder, "unused")
    row = {"file_name": "a.png", "mask": "a_mask.png", "text": caption}
    (folder / "metadata.jsonl").write_bytes(BOM + json.dumps(row, ensure_ascii=True).encode())
    return read


@pytest.mark.parametrize("kind", [coco, metadata, pair, masked])
def test_captions_of_every_kind_of_file(tmp_path: Path, kind: Callable[[Path, str], Callable[[], object]]) -> None:
    assert kind(tmp_path, " a red star 🌟 ")() == "a red star 🌟"
    for bad, reason in (("", "empty text"), (" \u2003", "empty text"), ("a\0b", "NUL character")):
        with pytest.raises(UserError, match=reason):
            kind(tmp_path, bad)()
    if kind is not pair:
        with pytest.raises(UserError, match="half of a surrogate pair"):
            kind(tmp_path, "a \ud800")()


def test_a_nul_in_a_prompts_file_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"fine\nno\x00t fine\n")
    with pytest.raises(UserError, match=r"line 2 of .*p\.txt holds a NUL character"):
        prompts.from_file(path, 1)
    path.write_bytes("a red star".encode("utf-16"))
    with pytest.raises(UserError, match=r"prompts file .* cannot be read"):
        prompts.from_file(path, 1)


def test_sweep_files_and_lists_of_images_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_bytes(BOM + b"methods: tome\n")
    assert config.read_yaml(tmp_path / "s.yaml") == {"methods": "tome"}
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    rows = [json.dumps({"file_name": name}) for name in ("b.png", "a.png")]
    (tmp_path / "metadata.jsonl").write_bytes(BOM + "\r\n".join(rows).encode())
    assert [path.name for path in references.files(tmp_path)] == ["b.png", "a.png"]
    assert list(text.lines("a\x0b\n\nb")) == [(1, "a"), (3, "b")]


def test_long_prompts_are_told_once(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    long = " ".join(["a red circle"] * 40)
    task = registry.tasks.get("text-to-image")(model, steps=2, guidance=2.0)
    cases = [prompts.Case(i, prompt, i) for i, prompt in enumerate(["a star", long, f"{long} and a star", long])]
    for _ in range(2):
        task.prepare(cases)
    prompting.warn_of_long(model.pipeline, ["a star"], model.call)
    told = [record.getMessage() for record in caplog.records if "prompts are longer" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith("2 of 3 prompts are longer than the")


# -- what is drawn of names ----------------------------------------------------------------------------------------


PLUGIN = """
import harness, torch
from contextlib import contextmanager
from harness.method import Method, RatioSettings
from harness.tokens import kept_count, scatter, take, top_k
{decorators}
class Named(Method):
    Settings = RatioSettings
    @contextmanager
    def attach(self, backbone, state=None):
        def advice(c):
            some = torch.arange(c.x.shape[1] - 9).expand(len(c.x), -1)
            return scatter(c.x, some, c.run(take(c.x, some), some))
        with backbone.advise("block", advice):
            yield
"""
HOSTILE = ["=cmd|'/c calc'!A0", "<b>bold</b>|`x`$a_b$", "[link](https://example.com)", "🌟 نجمة حمراء"]


def test_hostile_names_through_a_whole_sweep(tiny_folder: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "named.py"
    for place, name in enumerate(HOSTILE):
        plugin = tmp_path / f"named{place}.py"
        plugin.write_text(PLUGIN.format(decorators=f"@harness.methods.register({name!r})"), encoding="utf-8")
    try:
        table = harness.run(
            [{"name": name} for name in HOSTILE], model=str(tiny_folder), cases=2, rounds=2, ratios=[0.3],
            metrics="paired", out=tmp_path / "run", plugins=sorted(tmp_path.glob("named*.py")),
        )  # fmt: skip
    finally:
        for name in HOSTILE:
            registry.methods.forget(name)
    assert [(r.method, r.outcome) for r in table.records] == [(name, "ok") for name in ("dense", *HOSTILE)]
    tables = tmp_path / "run" / "tables"
    for path in tables.glob("*.csv"):
        with open(path, newline="", encoding="utf-8") as handle:
            for row in csv.reader(handle):
                assert not [cell for cell in row if cell[:1] in ("=", "+", "@", "\t")]
    frame = pd.read_csv(tables / "results.csv")
    assert frame["method"].tolist()[1:] == ["'" + HOSTILE[0], *HOSTILE[1:]]
    for path in tables.glob("*.md"):
        content = path.read_text(encoding="utf-8")
        assert "<b>" not in content and "](https" not in content and "$a_b$" not in content.replace("\\$", "")
        rows = [line for line in content.splitlines() if line.startswith("|")]
        widths = [line.replace("\\|", "").count("|") for line in rows]
        assert rows and set(widths) <= {widths[0], *widths}
        for above, line in zip(rows, rows[1:], strict=False):
            if "---" in line:
                assert above.replace("\\|", "").count("|") == line.count("|")
    assert (tmp_path / "run" / "plots" / "images.png").is_file()


def test_numbers_stay_numbers_in_a_csv() -> None:
    frame = pd.DataFrame({"x": [-1.5, float("nan")], "=s": ["-a", "b"], "o": [{"a": 1}, None]})
    assert formatting.csv(frame) == "x,'=s,o\n-1.5,'-a,{'a': 1}\n,b,\n"
    assert formatting.plain("a*b <i> & `c` [d](e)") == r"a\*b &lt;i&gt; &amp; \`c\` [d]\(e)"
    assert formatting.plain("fid[shapes-judge] alignment_masked 20 %") == "fid[shapes-judge] alignment_masked 20 %"
    assert formatting.code("a`b") == "`a'b`" and formatting.code("") == ""


@pytest.mark.parametrize(
    "words",
    ["$\\bad{ $", "🌟🎨 star", "نجمة حمراء كبيرة", "כוכב אדום", "红色的星星", "a\tb\nc", "\u202eabc", "x" * 500],
)
def test_words_of_every_script_are_drawn(tmp_path: Path, words: str) -> None:
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    assert image_grid([(words, [image])], [words], tmp_path / "grid.png").stat().st_size > 0
    maps = np.ones((2, 3, 4, 4))
    drawn = token_maps(maps, np.zeros((2, 16, 16, 3), dtype=np.uint8), tmp_path / "maps.png", title=words, label=words)
    assert drawn.stat().st_size > 0


# -- captions of a fit's training data -----------------------------------------------------------------------------


def test_training_captions_are_read_as_other_texts_are(tmp_path: Path) -> None:
    from harness.fitting.data import _pairs

    rows = [{"file_name": "a.png", "text": "a\u2028cat"}, {"file_name": "b.png", "text": " "}, {"file_name": "c.png"}]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_bytes(("\ufeff" + lines).encode())
    pairs, bad = _pairs(tmp_path)
    assert pairs == [(tmp_path / "a.png", "a\u2028cat")]
    assert bad == [
        "line 2 of metadata.jsonl has an empty text; a prompt has to say something",
        "line 3 of metadata.jsonl has no file_name and text",
    ]
    (tmp_path / "metadata.jsonl").unlink()
    for name, content in (("a", "\ufeffa cat\n".encode()), ("b", b"\xff"), ("c", b"a\0cat")):
        (tmp_path / f"{name}.png").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_bytes(content)
    pairs, bad = _pairs(tmp_path)
    assert pairs == [(tmp_path / "a.png", "a cat")] and len(bad) == 2
