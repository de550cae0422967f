"""What readers of files are fed: noise, damaged samples, nests of near-right values."""

import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from harness.sweep import Sweep
from results.record import CaseFacts, Estimate, Record
from results.store import Store

Inputs = st.SearchStrategy[bytes]


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


def text(*samples: str) -> Inputs:
    parts = st.lists(st.one_of(st.sampled_from(samples), st.text(max_size=10)), max_size=6)
    return st.one_of(parts.map(lambda some: "\n".join(some).encode("utf-8", "surrogatepass")), st.binary(max_size=60))


def png(mode: str, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (side, side), 255 if mode == "L" else (9, 90, 200)).save(buffer, format="PNG")
    return buffer.getvalue()


def saved(save_to: Callable[[Any], None]) -> bytes:
    buffer = io.BytesIO()
    save_to(buffer)
    return buffer.getvalue()


ROW = {"file_name": "a.png", "mask": "a_mask.png", "text": "a red circle"}
COCO = {"annotations": [{"image_id": 1, "id": 2, "caption": "a cat"}, {"image_id": 3, "id": 4, "caption": "a dog"}]}
SWEEP = {"methods": [{"name": "tome", "settings": {"around": "mlp"}}, "uniform"], "ratios": [0.1], "cases": 4}
NOTES = {
    "scenes": "shapes",
    "judge": "shapes-judge",
    "defaults": {"steps": 4, "guidance": 2.0},
    "call": {"height": 64},
}
INDEX = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"], "id2label": {"1": "cat"}}
MATCH = [{"method": "tome", "settings": {}, "chosen": {"ratio": 0.2}, "axis": "gmacs", "budget": 0.8,
           "setting": "ratio", "strength": 0.2, "cost": 0.8, "tried": 3, "met": True}]  # fmt: skip
TABLE = b"layer,region,ratio\n0,0,0.2\n1,0,0.3\n"
PROFILE = (
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


def database() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        with Store(path) as store:
            store.put(record())
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA journal_mode = DELETE")
        return path.read_bytes()


def safetensors() -> bytes:
    facts = {"method": "diffcr", "model_digest": "digest", "settings": {"ratio": 0.2}}
    return save({"router": torch.zeros(2, 3), "ratios": torch.zeros(2, 1)}, metadata={"facts": json.dumps(facts)})


def with_facts(text: str) -> bytes:
    return save({"x": torch.zeros(1)}, metadata={"facts": text})


METADATA = st.one_of(
    damaged(json.dumps(ROW).encode()),
    st.lists(st.one_of(st.just(ROW), nested(*ROW, "a.png", "\0", "..")), max_size=3).map(
        lambda rows: "\n".join(map(json.dumps, rows)).encode()
    ),
    text(json.dumps(ROW), "{}"),
)
YAML = st.one_of(
    damaged(yaml.safe_dump(SWEEP).encode()),
    nested(*Sweep.model_fields, "tome", "diffcr", "all", "ratio", "name", "settings").map(
        lambda value: yaml.safe_dump(value).encode()
    ),
    st.dictionaries(st.sampled_from(sorted(Sweep.model_fields)), nested("tome", "name", "ratio"), max_size=4).map(
        lambda value: yaml.safe_dump(value).encode()
    ),
    text("methods:", "- tome", "&a [*a]", "!!python/name:os.system", "? [a]: b"),
)
IMAGE = st.one_of(damaged(png("RGB", 8)), damaged(png("L", 8)), st.binary(max_size=80))
MAPS = saved(lambda f: np.savez_compressed(f, keep=np.zeros((2, 2, 2, 2)), images=np.zeros((2, 4, 4, 3), np.uint8)))
BODY = json.loads(record().model_dump_json(exclude={"cases"})) | {"cases": ""}
