"""Every reader of files that a user brings, and what to feed it: noise, damaged samples, nests of near-right values.

`tests/test_fuzz.py` gives each a few inputs, `benchmarks/fuzz.py` ten thousand in all.
"""

import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from harness import config, matches
from harness.backbones.dit import DiT
from harness.checkpoints import CheckpointError
from harness.cli.options import axes, by_metric, with_settings
from harness.errors import UserError
from harness.executors import marks
from harness.fitting.data import _pairs, _readable
from harness.models.loading import load
from harness.models.model import Model
from harness.profiling import ratio_table
from harness.published.document import _profile
from harness.sweep import Profile, Sweep
from results import outputs
from results.record import CaseFacts, Estimate, Record
from results.run import open_run
from results.run_folder import RunFolder
from results.store import Store, StoreError
from tasks import inpainting_cases, prompts
from tasks.class_conditional import ClassConditional

KNOWN = (UserError, StoreError, CheckpointError)
"""What a reader may raise: each names the file and what to do."""

Inputs = st.SearchStrategy[bytes]


@dataclass(frozen=True)
class Reader:
    """inputs: contents of the file. read: the file in an empty folder, which it may fill further."""

    name: str
    inputs: Inputs
    read: Callable[[bytes, Path], object]


# -- what is fed ---------------------------------------------------------------------------------------------------


def damaged(sample: bytes) -> Inputs:
    """A sample with a few stretches cut out, doubled or overwritten."""
    cut = st.tuples(st.integers(0, len(sample)), st.integers(0, 40), st.binary(max_size=12), st.booleans())

    def apply(cuts: list[tuple[int, int, bytes, bool]]) -> bytes:
        out = sample
        for start, length, new, double in cuts:
            start = min(start, len(out))
            old = out[start : start + length]
            out = out[:start] + (old + old if double else new) + out[start + length :]
        return out

    return st.lists(cut, min_size=1, max_size=4).map(apply)


def nested(*words: str) -> st.SearchStrategy[Any]:
    """Values as JSON and YAML have them, whose keys and texts are often these words."""
    word = st.one_of(st.sampled_from(words), st.text(max_size=5))
    number = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 2**63, 10**30, 1e308]))
    leaf = st.one_of(st.none(), st.booleans(), number, word)
    return st.recursive(
        leaf,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(word, inner, max_size=4)),
        max_leaves=12,
    )


def as_json(values: st.SearchStrategy[Any]) -> Inputs:
    return values.map(lambda value: json.dumps(value).encode())


def _text(*samples: str) -> Inputs:
    parts = st.lists(st.one_of(st.sampled_from(samples), st.text(max_size=10)), max_size=6)
    return st.one_of(parts.map(lambda some: "\n".join(some).encode("utf-8", "surrogatepass")), st.binary(max_size=60))


def _png(mode: str, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), 255 if mode == "L" else (9, 90, 200)).save(buffer, format="PNG")
    return buffer.getvalue()


def _saved(save_to: Callable[[Any], None]) -> bytes:
    buffer = io.BytesIO()
    save_to(buffer)
    return buffer.getvalue()


_ROW = {"file_name": "a.png", "mask": "a_mask.png", "text": "a red circle"}
_COCO = {"annotations": [{"image_id": 1, "id": 2, "caption": "a cat"}, {"image_id": 3, "id": 4, "caption": "a dog"}]}
_SWEEP = {"methods": [{"name": "tome", "settings": {"around": "mlp"}}, "uniform"], "ratios": [0.1], "cases": 4}
_NOTES = {
    "scenes": "shapes",
    "judge": "shapes-judge",
    "defaults": {"steps": 4, "guidance": 2.0},
    "call": {"height": 64},
}
_INDEX = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"], "id2label": {"1": "cat"}}
_MATCH = [{"method": "tome", "settings": {}, "chosen": {"ratio": 0.2}, "axis": "gmacs", "budget": 0.8,
           "setting": "ratio", "strength": 0.2, "cost": 0.8, "tried": 3, "met": True}]  # fmt: skip
_TABLE = b"layer,region,ratio\n0,0,0.2\n1,0,0.3\n"
_PROFILE = (
    b"method,ratio,batch,mask_tokens,outcome,latency_ratio,latency_ratio_low,latency_ratio_high,peak_memory_mb\n"
    b"dense,,1,,ok,1,1,1,5\n"
)


def record(**fields: Any) -> Record:
    """A small record with everything that a record may name."""
    place = "images/5a5a5a5a"
    given = {
        "key": "0123456789abcdef", "sample_key": "5a5a5a5a", "method": "dense", "task": "text-to-image",
        "model": "shapes", "device": "cpu", "dtype": "float32", "steps": 4, "n_cases": 1, "outcome": "ok",
        "cases": (CaseFacts(prompt="a cat", seed=0),), "started": "2025-01-01T00:00:00+00:00",
        "estimates": {"gmacs": Estimate(value=1.0, n=1, unit="GMACs", convention="counted", role="cost")},
        "images": [f"{place}/00000.png"], "features": {"judge": f"{place}/features-judge.npy"},
        "token_maps": f"{place}/token-maps.npz",
    }  # fmt: skip
    return Record(**given | fields)


def _database() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        with Store(path) as store:
            store.put(record())
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA journal_mode = DELETE")
        return path.read_bytes()


# -- readers -------------------------------------------------------------------------------------------------------


def _written(name: str, then: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """A reader of a file of this name."""

    def read(content: bytes, folder: Path) -> object:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return then(path)

    return read


def _images_beside(folder: Path) -> None:
    (folder / "a.png").write_bytes(_png("RGB", 8))
    (folder / "a_mask.png").write_bytes(_png("L", 8))


def _inpainting(path: Path) -> object:
    _images_beside(path.parent)
    return inpainting_cases.from_folder(path.parent, 1, 8, binarize=False)


def _captions(path: Path) -> object:
    _images_beside(path.parent)
    return prompts.from_folder(path.parent, 1)


def _training(path: Path) -> object:
    _images_beside(path.parent)
    pairs, bad = _pairs(path.parent)
    return [_readable(picture) for picture, _ in pairs], bad


def _picture(name: str) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        _images_beside(folder)
        (folder / "metadata.jsonl").write_text(json.dumps(_ROW))
        (folder / name).write_bytes(content)
        _readable(folder / name)
        return inpainting_cases.from_folder(folder, 1, 8, binarize=True)

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
        (folder / "model_index.json").write_text(json.dumps(_INDEX))
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


def _safetensors() -> bytes:
    facts = {"method": "diffcr", "model_digest": "digest", "settings": {"ratio": 0.2}}
    return save({"router": torch.zeros(2, 3), "ratios": torch.zeros(2, 1)}, metadata={"facts": json.dumps(facts)})


def _with_facts(text: str) -> bytes:
    return save({"x": torch.zeros(1)}, metadata={"facts": text})


_METADATA = st.one_of(
    damaged(json.dumps(_ROW).encode()),
    st.lists(st.one_of(st.just(_ROW), nested(*_ROW, "a.png", "\0", "..")), max_size=3).map(
        lambda rows: "\n".join(map(json.dumps, rows)).encode()
    ),
    _text(json.dumps(_ROW), "{}"),
)
_YAML = st.one_of(
    damaged(yaml.safe_dump(_SWEEP).encode()),
    nested(*Sweep.model_fields, "tome", "diffcr", "all", "ratio", "name", "settings").map(
        lambda value: yaml.safe_dump(value).encode()
    ),
    st.dictionaries(st.sampled_from(sorted(Sweep.model_fields)), nested("tome", "name", "ratio"), max_size=4).map(
        lambda value: yaml.safe_dump(value).encode()
    ),
    _text("methods:", "- tome", "&a [*a]", "!!python/name:os.system", "? [a]: b"),
)
_IMAGE = st.one_of(damaged(_png("RGB", 8)), damaged(_png("L", 8)), st.binary(max_size=80))
_MAPS = _saved(lambda f: np.savez_compressed(f, keep=np.zeros((2, 2, 2, 2)), images=np.zeros((2, 4, 4, 3), np.uint8)))
_BODY = json.loads(record().model_dump_json(exclude={"cases"})) | {"cases": ""}

READERS = (
    Reader("prompts", _text("a cat", "a dog"), _written("p.txt", lambda path: prompts.from_file(path, 1))),
    Reader(
        "captions of MS-COCO",
        st.one_of(
            damaged(json.dumps(_COCO).encode()),
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
    Reader("captions of a folder", _METADATA, _written("metadata.jsonl", _captions)),
    Reader("masks of a folder", _METADATA, _written("metadata.jsonl", _inpainting)),
    Reader("training data", _METADATA, _written("metadata.jsonl", _training)),
    Reader("caption beside a mask", _text("a cat"), _written("a.txt", _inpainting)),
    Reader("caption beside an image", _text("a cat"), _written("a.txt", _training)),
    Reader("image", _IMAGE, _picture("a.png")),
    Reader("mask", _IMAGE, _picture("a_mask.png")),
    Reader("classes", _text("1", "cat", "9" * 5000), _written("c.txt", _classes)),
    Reader("sweep file", _YAML, _written("sweep.yaml", _sweep)),
    Reader("settings", _text("around=mlp", "a=[1", "=", "ratio=!!int x"), _settings),
    Reader(
        "harness.json",
        st.one_of(damaged(json.dumps(_NOTES).encode()), as_json(nested(*_NOTES, "steps", "negative_prompt", "prompt"))),
        _model("harness.json"),
    ),
    Reader(
        "model_index.json",
        st.one_of(
            damaged(json.dumps(_INDEX).encode()),
            as_json(nested(*_INDEX)),
            as_json(nested("1", "cat").map(lambda value: _INDEX | {"id2label": value})),
        ),
        _model("model_index.json"),
    ),
    Reader(
        "adapter",
        st.one_of(
            damaged(_safetensors()),
            nested("method", "diffcr", "settings", "ratio", "model_digest").map(lambda v: _with_facts(json.dumps(v))),
            nested("ratio", "axes").map(lambda v: _with_facts(json.dumps({"method": "diffcr", "settings": v}))),
            st.text(max_size=10).map(_with_facts),
        ),
        _written("diffcr-20.safetensors", _adapter),
    ),
    Reader("store", damaged(_database()), _written("store.sqlite", _store)),
    Reader(
        "row of a store",
        st.one_of(
            damaged(json.dumps(_BODY).encode()),
            st.tuples(st.sampled_from(sorted(_BODY)), nested("../../a", "/etc/passwd", "ok", *_BODY)).map(
                lambda pair: json.dumps(_BODY | {pair[0]: pair[1]}).encode()
            ),
        ),
        _row,
    ),
    Reader("workload of a store", as_json(nested("kind", "images")), _workload),
    Reader("log", _text("{}", "0123456789abcdef"), _written("log.jsonl", _log)),
    Reader("generated image", _IMAGE, _array("00000.png")),
    Reader(
        "features",
        st.one_of(damaged(_saved(lambda f: np.save(f, np.zeros((1, 4), np.float16)))), st.binary(max_size=90)),
        _array("features-judge.npy"),
    ),
    Reader("token maps", st.one_of(damaged(_MAPS), st.binary(max_size=90)), _array("token-maps.npz")),
    Reader("mark of what is drawn", as_json(nested("files", "records", "version", "tables")), _mark),
    Reader("mark of a point that runs", st.one_of(as_json(nested("deaths")), st.binary(max_size=40)), _running),
    Reader(
        "search for budgets",
        st.one_of(
            damaged(json.dumps(_MATCH).encode()),
            as_json(nested(*_MATCH[0])),
            as_json(st.lists(nested(*_MATCH[0]).map(lambda v: _MATCH[0] | {"chosen": v}), max_size=2)),
        ),
        _written("matched.json", matches.read),
    ),
    Reader(
        "ratio table",
        st.one_of(damaged(_TABLE), _text("layer,region,ratio", "0,0,0.1", "1e400,0,0")),
        _written("t.csv", lambda path: ratio_table.read(path, 2)),
    ),
    Reader("profile", st.one_of(damaged(_PROFILE), _text("method,ratio", "dense,0")), _written("p.csv", _profile)),
)
