"""What a method leaves behind fails its own point, by name, and no other one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import harness
from harness import registry
from harness.models import Model

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
    """The run of every hostile method before two good ones, in a process of its own, and of the good ones alone."""
    here = tmp_path_factory.mktemp("leftovers")
    (here / "plugin.py").write_text(PLUGIN)
    hostile = [*LEFT, "failing", "counts", "keeps", "draws", "nan-alone", "nothing", "tome"]
    command = [sys.executable, "-m", "harness", "run", "--methods", ",".join(hostile), "--plugin", "plugin.py",
               "--model", tiny_folder, "--cases", "3", "--rounds", "2", "--ratios", "0.3", "--metrics", "paired",
               "--out", "hostile", "--fresh"]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), cwd=here, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        harness.run(["tome", "nothing"], plugins=[here / "plugin.py"], model=str(tiny_folder), cases=3, rounds=2,
                    ratios=[0.3], metrics="paired", out=here / "alone", fresh=True)  # fmt: skip
    finally:
        torch.set_num_threads(threads)
        forget(here / "plugin.py")
    return here / "hostile", here / "alone"


def forget(plugin: Path) -> None:
    for name in [name for name in registry.methods if registry.plugin_of(registry.methods.get(name)) == plugin]:
        registry.methods.forget(name)
    sys.modules.pop(f"harness_plugin_{plugin.stem}", None)


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
    forget(path)


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
