"""What a method leaves behind fails its own point, by name, and no other one."""

import copy
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import harness
from harness import registry
from harness.checksums import checksums
from harness.leftovers import Snapshot
from harness.models import Model
from harness.process_state import ProcessState

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = """
import gc, os
from contextlib import contextmanager
import torch
import torch.nn.functional as F
import harness
from diffusers import AutoencoderKL, DDIMScheduler, PixArtSigmaPipeline
from harness.method import Method, RatioSettings
from harness.tokens import kept_count, scatter, take, top_k

def drop(method, call):
    b, n, _ = call.x.shape
    seed = torch.Generator().manual_seed(1000 * call.step.index + call.layer)
    index = top_k(torch.rand(1, n, generator=seed).expand(b, n), kept_count(method.ratio, n))
    return scatter(call.x, index, call.run(take(call.x, index), index))

def found(kind):
    return [one for one in gc.get_objects() if isinstance(one, kind)]

@torch.no_grad()
def weights(backbone):
    backbone.blocks[0].attn1.to_q.weight.mul_(0.9)

@torch.no_grad()
def decoder(backbone):
    for vae in found(AutoencoderKL):
        vae.decoder.conv_out.bias.data.add_(0.1)

def hook(backbone):
    backbone.blocks[1].register_forward_hook(lambda module, args, out: out * 0.9)

def patch(backbone):
    block, forward = backbone.blocks[0], backbone.blocks[0].forward
    block.forward = lambda *a, **k: forward(*a, **k) * 0.9

def of_class(backbone):
    cls = type(backbone.blocks[0])
    forward = cls.forward
    cls.forward = lambda self, *a, **k: forward(self, *a, **k) * 0.9

def of_torch(backbone):
    gelu = F.gelu
    F.gelu = lambda *a, **k: gelu(*a, **k) * 0.9

def scheduler(backbone):
    for pipeline in found(PixArtSigmaPipeline):
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)

def processor(backbone):
    attention = backbone.blocks[0].attn1
    attention.processor = type(attention.processor)()

def process(backbone):
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(3)
    os.chdir("/")

def nothing(backbone):
    torch.rand(3)

def failing(backbone):
    hook(backbone)
    raise RuntimeError("boom")

def register(name, before):
    @contextmanager
    def attach(self, backbone, state=None):
        before(backbone)
        with backbone.advise("block", lambda call: drop(self, call)):
            yield
    body = {"attach": attach, "Settings": RatioSettings, "__module__": __name__}
    harness.methods.register(name)(type("M", (Method,), body))

for one in (weights, decoder, hook, patch, of_class, of_torch, scheduler, processor, process, nothing, failing):
    register(one.__name__.replace("_", "-"), one)

seen = [0]

def register_advice(name, advice):
    @contextmanager
    def attach(self, backbone, state=None):
        kept = {}
        with backbone.advise("block", lambda call: advice(drop(self, call), call, kept)):
            yield
    body = {"attach": attach, "Settings": RatioSettings, "__module__": __name__}
    harness.methods.register(name)(type("M", (Method,), body))

def counts(out, call, kept):
    seen[0] += call.layer == 0
    return out + 0.01 * seen[0]

def keeps(out, call, kept):
    return kept.setdefault("first", out) if call.layer == 0 and len(out) == len(kept.get("first", out)) else out

def draws(out, call, kept):
    return out + 0.1 * torch.rand(())

def nan_alone(out, call, kept):
    return out * float("nan") if len(out) <= 2 else out

for one in (counts, keeps, draws, nan_alone):
    register_advice(one.__name__.replace("_", "-"), one)
"""
LEFT = {
    "weights": "changed weights (transformer.transformer_blocks.0.attn1.to_q.weight)",
    "decoder": "changed weights (vae.decoder.conv_out.bias)",
    "hook": "hooks (transformer.transformer_blocks.1",
    "patch": "patched functions (transformer.transformer_blocks.0.forward)",
    "of-class": "patched functions (BasicTransformerBlock.forward)",
    "of-torch": "patched functions (torch.nn.functional.gelu)",
    "scheduler": "exchanged parts (scheduler)",
    "processor": "patched functions (transformer.transformer_blocks.0.attn1.processor)",
    "process": "the current folder, torch's number of threads, torch's default dtype",
}
STATE = "carries state from one image to another"


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run of every hostile method, each before a good one, and that of the good one alone."""
    here = tmp_path_factory.mktemp("leftovers")
    (here / "plugin.py").write_text(PLUGIN)
    hostile = [*LEFT, "failing", "counts", "keeps", "draws", "nan-alone"]
    methods = {"hostile": [*hostile, "nothing", "tome"], "alone": ["tome", "nothing"]}
    for name, chosen in methods.items():
        command = [sys.executable, "-m", "harness", "run", "--methods", ",".join(chosen), "--plugin", "plugin.py",
                   "--model", tiny_folder, "--cases", "3", "--rounds", "2", "--ratios", "0.3", "--metrics", "paired",
                   "--out", name, "--fresh"]  # fmt: skip
        done = subprocess.run(
            list(map(str, command)), cwd=here, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == (name == "hostile"), done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    return here / "hostile", here / "alone"


def test_a_point_that_left_something_behind_says_what(folders: tuple[Path, Path]) -> None:
    reasons = {record.method: (record.outcome, record.reason) for record in harness.open_run(folders[0]).records}
    for method, left in LEFT.items():
        outcome, reason = reasons[method]
        assert outcome == "failed" and "it left behind: " in reason and left in reason, (method, reason)
    assert reasons["failing"][0] == "failed" and "RuntimeError: boom (plugin.py, line" in reasons["failing"][1]
    assert "; it left behind: hooks (transformer.transformer_blocks.1)" in reasons["failing"][1]


def test_state_between_images_and_nan_in_cost_passes_fail(folders: tuple[Path, Path]) -> None:
    reasons = {record.method: (record.outcome, record.reason) for record in harness.open_run(folders[0]).records}
    for method in ("counts", "keeps", "draws"):
        assert reasons[method][0] == "failed" and reasons[method][1].startswith(STATE), (method, reasons[method])
    assert reasons["nan-alone"][0] == "failed" and "NaN" in reasons["nan-alone"][1]
    assert "costs are measured" in reasons["nan-alone"][1]


def test_points_behind_hostile_ones_are_those_of_an_undisturbed_run(folders: tuple[Path, Path]) -> None:
    disturbed, alone = (harness.open_run(folder) for folder in folders)
    for method in ("dense", "tome", "nothing"):
        one, other = ({r.method: r for r in run.records}[method] for run in (disturbed, alone))
        assert one.outcome == other.outcome == "ok", one.reason + other.reason
        assert one.estimates["gmacs"].value == other.estimates["gmacs"].value
        for name in one.images:
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "left.py"
    path.write_text(PLUGIN)
    yield path
    for name in [name for name in registry.methods if registry.plugin_of(registry.methods.get(name)) == path]:
        registry.methods.forget(name)
    sys.modules.pop("harness_plugin_left", None)


def test_a_profile_goes_on_with_a_new_denoiser(tiny_folder: Path, plugin: Path, tmp_path: Path) -> None:
    registry.load_plugin(plugin)
    hostile = ["weights", "patch", "failing", "process"]
    how = {"model": str(tiny_folder), "ratios": [0.3], "rounds": 2}
    run = harness.profile([*hostile, "nothing", "tome"], out=tmp_path / "run", **how)
    alone = harness.profile(["nothing", "tome"], out=tmp_path / "alone", fresh=True, **how)
    found = {record.method: record for record in run.records}
    for method in hostile:
        assert found[method].outcome == "failed" and "it left behind: " in found[method].reason, found[method].reason
    assert "boom (left.py, line" in found["failing"].reason
    for record in alone.records:
        assert found[record.method].outcome == record.outcome == "ok"
        assert found[record.method].estimates["gmacs"].value == record.estimates["gmacs"].value


def test_remove_warns_of_what_stayed_on(model: Model, plugin: Path) -> None:
    registry.load_plugin(plugin)
    harness.apply(model.pipeline, "nothing", ratio=0.3)
    harness.remove(model.pipeline)
    harness.apply(model.pipeline, "hook", ratio=0.3)
    with pytest.warns(UserWarning, match=r"after 'hook' was removed, .* hooks \(transformer.transformer_blocks.1\)"):
        harness.remove(model.pipeline)


# -- the parts -----------------------------------------------------------------------------------------------------


def test_a_pipeline_that_was_used_has_not_changed(model: Model) -> None:
    model.remember()
    with harness.applied(model.pipeline, "fbcache"), torch.no_grad():
        model.pipeline(
            "a red circle", num_inference_steps=2, output_type="pt", **model.call, generator=torch.Generator()
        )
    assert model.left_behind() == []
    with torch.no_grad():
        model.pipeline.vae.decoder.conv_out.bias[0] += 1
    assert model.left_behind() == ["changed weights (vae.decoder.conv_out.bias)"]
    assert model.left_behind() == []  # another pipeline, which nobody has looked at
    model.remember()
    assert model.left_behind() == []


def _swap(x: torch.Tensor) -> None:
    x[0], x[1] = x[1].clone(), x[0].clone()


def _flip(x: torch.Tensor) -> None:
    x[:2].neg_()  # an even number of sign bits


def _equally(x: torch.Tensor) -> None:
    x.mul_(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.bool])
@pytest.mark.parametrize("change", [_swap, _flip, _equally])
def test_checksums_tell_every_change(change: Callable[[torch.Tensor], None], dtype: torch.dtype) -> None:
    x = torch.ones(70_001, dtype=dtype) if change is not _swap else torch.arange(70_001).remainder(2).to(dtype)
    before = checksums({"x": x, "empty": x[:0], "scalar": x[0], "turned": x.view(7, -1).T if len(x) % 7 == 0 else x})
    assert before["x"] == checksums({"x": x.clone()})["x"]
    if dtype is torch.bool:
        x[1] = ~x[1]
    else:
        change(x)
    assert before["x"] != checksums({"x": x})["x"] and before["empty"] == checksums({"empty": x[:0]})["empty"]


def test_what_diffusers_and_compilers_leave_is_told_apart() -> None:
    """An own `forward` that is the class's, bound, is none: diffusers leaves one behind where a cache was disabled."""
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout())
    before = Snapshot.of({"net": module})
    module[0].forward = module[0].forward
    assert before.changes({"net": module}) == []
    module[0].forward = copy.copy(module[1]).forward
    assert before.changes({"net": module}) == ["patched functions (net.0.forward)"]
    del module[0].forward
    module.eval()
    module[1] = nn.Identity()
    assert sorted(text.partition(" (")[0] for text in before.changes({"net": module})) == [
        "exchanged modules", "modules in training mode", "modules of another class"
    ]  # fmt: skip


CHANGES: dict[str, Callable[[], Any]] = {
    "whether gradients are taken": lambda: torch.set_grad_enabled(False),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "cuDNN's flags": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "float32 matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "the fused attention's backends": lambda: torch.backends.cuda.enable_math_sdp(False),
    "hooks of all modules": lambda: nn.modules.module.register_module_forward_hook(lambda *_: None),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
}


def test_the_process_is_restored() -> None:
    before = ProcessState.now()
    drawn = torch.rand(2), np.random.rand(), random.random()
    before.restore()
    for name, change in CHANGES.items():
        change()
        assert before.restore() == [name] and before.restore() == []
    assert torch.equal(torch.rand(2), drawn[0]) and (np.random.rand(), random.random()) == drawn[1:]


def test_a_folder_that_somebody_deleted_is_nobodys_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    before = ProcessState.now()
    place.rmdir()
    assert before.restore() == [] and ProcessState.now().restore() == []
