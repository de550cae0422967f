"""Every reader of files that a user brings, and what to feed it: noise, damaged samples, nests of near-right values.

`tests/test_fuzz.py` gives each a few inputs, `benchmarks/fuzz.py` ten thousand in all.
"""

import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from reader_inputs import (
    BODY,
    COCO,
    IMAGE,
    INDEX,
    MAPS,
    MATCH,
    METADATA,
    NOTES,
    PROFILE,
    ROW,
    TABLE,
    YAML,
    Inputs,
    as_json,
    damaged,
    database,
    nested,
    png,
    record,
    safetensors,
    saved,
    text,
    with_facts,
)

from harness import config, matches
from harness.backbones.dit import DiT
from harness.checkpoints import CheckpointError
from harness.cli.options import axes, by_metric, with_settings
from harness.errors import UserError
from harness.executors import marks
from harness.fitting.data import _pairs
from harness.image_files import readable
from harness.models.loading import load
from harness.models.model import Model
from harness.profiling import ratio_table
from harness.published.document import _profile
from harness.sweep import Profile, Sweep
from results import outputs
from results.run import open_run
from results.run_folder import RunFolder
from results.store import Store, StoreError
from tasks import inpainting_cases, prompts
from tasks.class_conditional import ClassConditional

KNOWN = (UserError, StoreError, CheckpointError)
"""What a reader may raise: each names the file and what to do."""


@dataclass(frozen=True)
class Reader:
    """inputs: contents of the file. read: the file in an empty folder, which it may fill further."""

    name: str
    inputs: Inputs
    read: Callable[[bytes, Path], object]


def _written(name: str, then: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """A reader of a file of this name."""

    def read(content: bytes, folder: Path) -> object:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return then(path)

    return read


def _images_beside(folder: Path) -> None:
    (folder / "a.png").write_bytes(png("RGB", 8))
    (folder / "a_mask.png").write_bytes(png("L", 8))


def _inpainting(path: Path) -> object:
    _images_beside(path.parent)
    return inpainting_cases.from_folder(path.parent, slice(1), 8, binarize=False)


def _captions(path: Path) -> object:
    _images_beside(path.parent)
    return prompts.from_folder(path.parent, 1)


def _training(path: Path) -> object:
    _images_beside(path.parent)
    pairs, bad = _pairs(path.parent)
    return [readable(picture) for picture, _ in pairs], bad


def _picture(name: str) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        _images_beside(folder)
        (folder / "metadata.jsonl").write_text(json.dumps(ROW))
        (folder / name).write_bytes(content)
        readable(folder / name)
        return inpainting_cases.from_folder(folder, slice(1), 8, binarize=True)

    return read


def _classes(path: Path) -> object:
    model = Model("dit", lambda: None, DiT, "", kind="DiTPipeline", labels={1: "cat, pussy-cat"})
    return ClassConditional(model, steps=4, guidance=1.0).cases(1, prompts=path)


def _sweep(path: Path) -> object:
    sweep = config.build(config.read_yaml(path))
    return sweep.run_name(), [config.settings_of(spec, sweep.ratios) for spec in sweep.methods]


def _settings(content: bytes, _folder: Path) -> object:
    words = content.decode("utf-8", "replace")
    for request in (Sweep.model_validate({}), Profile.model_validate({})):
        with suppress(UserError):
            with_settings(request, [f"tome.{words}"])
    with suppress(UserError):
        by_metric([words])
    return axes([words])


def _model(name: str) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        (folder / "model_index.json").write_text(json.dumps(INDEX))
        (folder / name).write_bytes(content)
        model = load(f"{folder}/")
        return model.call, model.negative_prompt, model.facts

    return read


def _adapter(path: Path) -> object:
    model = Model("m", lambda: None, DiT, "digest", adapters=(path.parent,))
    for use in (model.adapter_files, lambda: model.fitted("diffcr"), lambda: model.adapter_digest(path.stem)):
        with suppress(*KNOWN):
            use()
    return model.adapter(path.stem)


def _store(path: Path) -> object:
    with RunFolder.open(path.parent) as folder:
        for each in folder.records():
            folder.complete(each), folder.images(each), folder.token_maps(each)
    return open_run(path.parent).frame


def _row(content: bytes, folder: Path) -> object:
    with Store(folder / "store.sqlite") as store:
        store.put(record())
    with sqlite3.connect(folder / "store.sqlite") as db:
        db.execute("UPDATE record SET body = ?", (content.decode("utf-8", "replace"),))
    return _store(folder / "store.sqlite")


def _workload(content: bytes, folder: Path) -> object:
    with Store(folder / "store.sqlite") as store:
        store.set_meta("workload", content.decode("utf-8", "replace"))
    RunFolder.grow(folder, {"kind": "images"}).close()
    return None


def _array(name: str) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        with Store(folder / "store.sqlite") as store:
            store.put(record())
        path = folder / "images" / "5a5a5a5a" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        with RunFolder.open(folder) as run:
            return run.images(record()), run.features(record(), "judge"), run.token_maps(record())

    return read


def _mark(content: bytes, folder: Path) -> object:
    with Store(folder / "store.sqlite") as store:
        store.put(record())
    (folder / "tables").mkdir()
    (folder / "tables" / "drawn.json").write_bytes(content)
    with RunFolder.open(folder) as run:
        assert not outputs.drawn(run)
    return None


def _running(content: bytes, folder: Path) -> object:
    with suppress(RuntimeError), marks.marked(folder, "key"):
        for path in (folder / "running").iterdir():
            path.write_bytes(content)
        raise RuntimeError
    return marks.refusal(folder, "key")


def _log(path: Path) -> object:
    RunFolder.grow(path.parent, {"kind": "images"}).close()
    return None


READERS = (
    Reader("prompts", text("a cat", "a dog"), _written("p.txt", lambda path: prompts.from_file(path, 1))),
    Reader(
        "captions of MS-COCO",
        st.one_of(
            damaged(json.dumps(COCO).encode()),
            as_json(nested("annotations", "image_id", "id", "caption")),
            as_json(st.lists(nested("image_id"), max_size=3).map(lambda rows: {"annotations": rows})),
            as_json(
                st.lists(
                    st.fixed_dictionaries({name: nested("a") for name in ("image_id", "id", "caption")}), max_size=3
                ).map(lambda rows: {"annotations": rows})
            ),
        ),
        _written("p.json", lambda path: prompts.from_file(path, 1)),
    ),
    Reader("captions of a folder", METADATA, _written("metadata.jsonl", _captions)),
    Reader("masks of a folder", METADATA, _written("metadata.jsonl", _inpainting)),
    Reader("training data", METADATA, _written("metadata.jsonl", _training)),
    Reader("caption beside a mask", text("a cat"), _written("a.txt", _inpainting)),
    Reader("caption beside an image", text("a cat"), _written("a.txt", _training)),
    Reader("image", IMAGE, _picture("a.png")),
    Reader("mask", IMAGE, _picture("a_mask.png")),
    Reader("classes", text("1", "cat", "9" * 5000), _written("c.txt", _classes)),
    Reader("sweep file", YAML, _written("sweep.yaml", _sweep)),
    Reader("settings", text("around=mlp", "a=[1", "=", "ratio=!!int x"), _settings),
    Reader(
        "harness.json",
        st.one_of(damaged(json.dumps(NOTES).encode()), as_json(nested(*NOTES, "steps", "negative_prompt", "prompt"))),
        _model("harness.json"),
    ),
    Reader(
        "model_index.json",
        st.one_of(
            damaged(json.dumps(INDEX).encode()),
            as_json(nested(*INDEX)),
            as_json(nested("1", "cat").map(lambda value: INDEX | {"id2label": value})),
        ),
        _model("model_index.json"),
    ),
    Reader(
        "adapter",
        st.one_of(
            damaged(safetensors()),
            nested("method", "diffcr", "settings", "ratio", "model_digest").map(lambda v: with_facts(json.dumps(v))),
            nested("ratio", "axes").map(lambda v: with_facts(json.dumps({"method": "diffcr", "settings": v}))),
            st.text(max_size=10).map(with_facts),
        ),
        _written("diffcr-20.safetensors", _adapter),
    ),
    Reader("store", damaged(database()), _written("store.sqlite", _store)),
    Reader(
        "row of a store",
        st.one_of(
            damaged(json.dumps(BODY).encode()),
            st.tuples(st.sampled_from(sorted(BODY)), nested("../../a", "/etc/passwd", "ok", *BODY)).map(
                lambda pair: json.dumps(BODY | {pair[0]: pair[1]}).encode()
            ),
        ),
        _row,
    ),
    Reader("workload of a store", as_json(nested("kind", "images")), _workload),
    Reader("log", text("{}", "0123456789abcdef"), _written("log.jsonl", _log)),
    Reader("generated image", IMAGE, _array("00000.png")),
    Reader(
        "features",
        st.one_of(damaged(saved(lambda f: np.save(f, np.zeros((1, 4), np.float16)))), st.binary(max_size=90)),
        _array("features-judge.npy"),
    ),
    Reader("token maps", st.one_of(damaged(MAPS), st.binary(max_size=90)), _array("token-maps.npz")),
    Reader("mark of what is drawn", as_json(nested("files", "records", "version", "tables")), _mark),
    Reader("mark of a point that runs", st.one_of(as_json(nested("deaths")), st.binary(max_size=40)), _running),
    Reader(
        "search for budgets",
        st.one_of(
            damaged(json.dumps(MATCH).encode()),
            as_json(nested(*MATCH[0])),
            as_json(st.lists(nested(*MATCH[0]).map(lambda v: MATCH[0] | {"chosen": v}), max_size=2)),
        ),
        _written("matched.json", matches.read),
    ),
    Reader(
        "ratio table",
        st.one_of(damaged(TABLE), text("layer,region,ratio", "0,0,0.1", "1e400,0,0")),
        _written("t.csv", lambda path: ratio_table.read(path, 2)),
    ),
    Reader("profile", st.one_of(damaged(PROFILE), text("method,ratio", "dense,0")), _written("p.csv", _profile)),
)
