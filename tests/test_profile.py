"""Random models, the profile of a step, and the published tables."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from typer.testing import CliRunner

import harness
from harness.attach import attached
from harness.backbones.pixart import PixArt
from harness.cli import app
from harness.errors import UserError
from harness.measure import flops, memory
from harness.measure.torch_counter import counting
from harness.models import load, random_init
from harness.models.random_init import build
from harness.profiling import ratio_table
from harness.profiling.costs import count, executed
from harness.profiling.subject import Candidate, Setup, Subject
from harness.published.costs import cells, deviation
from harness.spec import Call, Step
from results.tables import step_costs
from tests.support import build as method_of

TINY = ["uniform", "diffcr", "tome", "static", "depth", "width", "at-edm"]
MILLIONS = {  # parameters of the denoiser, in millions, as published
    "pixart-alpha-1024": 611, "pixart-sigma-512": 611, "pixart-sigma-1024": 611, "sd3-medium": 2085,
    "sd3.5-large": 8146, "flux-dev": 11901, "sana-1600m": 1604, "lazydiffusion-1024": 611,
}  # fmt: skip


@pytest.fixture
def on() -> Subject:
    torch.manual_seed(0)

    def build() -> PixArt:
        made = PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3,
            cross_attention_dim=32, caption_channels=24, sample_size=16,
        )  # fmt: skip
        return PixArt(made.eval())

    return Subject(build(), torch.device("cpu"), 16, 7, "", "", build)


def candidate(name: str, on: Subject, ratio: float = 0.3) -> Candidate:
    method = method_of(name, ratio)
    return Candidate(method, method.dummy_state(on.backbone), "")


@pytest.mark.parametrize("name", sorted(MILLIONS))
def test_random_models_have_the_published_number_of_parameters(name: str) -> None:
    made = build(name)
    assert {tensor.device.type for tensor in made.state_dict().values()} == {"meta"}
    # SD3 keeps its positions in the checkpoint: they are in the published numbers
    found = sum(tensor.numel() for tensor in made.state_dict().values()) / 1e6
    assert found == pytest.approx(MILLIONS[name], rel=0.003)


@pytest.mark.parametrize("name", ["dit-xl-2-256", "dit-xl-2-512"])
def test_dit_has_675_million_parameters_beside_copies(name: str) -> None:
    """diffusers gives every block its own copy of the embedders of timestep and class."""
    made = build(name)
    copies = sum(p.numel() for block in made.transformer_blocks[1:] for p in block.norm1.emb.parameters())
    assert (sum(p.numel() for p in made.parameters()) - copies) / 1e6 == pytest.approx(675, rel=0.003)


def test_weights_are_the_same_every_time_and_the_random_state_is_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    known = random_init.architecture("pixart-sigma-512")
    kind, config = known.parts["transformer"]
    small = {**config, "num_layers": 2, "num_attention_heads": 2, "cross_attention_dim": 144, "caption_channels": 24}
    entry = random_init.Architecture({"transformer": (kind, small)}, 64, 8, "")
    monkeypatch.setitem(random_init._KNOWN, "small", entry)
    before = torch.random.get_rng_state()
    one, two = (build("small", device="cpu", dtype=torch.bfloat16) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {tensor.dtype for tensor in one.state_dict().values()} == {torch.bfloat16}
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    weights = [m.weight for m in one.modules() if isinstance(m, nn.Linear)]
    assert not torch.equal(weights[2][0], weights[2][1])
    with torch.no_grad():
        out = one(**PixArt(one).inputs(2, text_tokens=8))[0]
    assert out.isfinite().all() and float(out.float().std()) > 0
    monkeypatch.setattr(random_init, "_room", lambda _: 1000)
    with pytest.raises(UserError, match=r"random:small in float32 takes .* free on cpu; take a smaller --dtype"):
        build("small", device="cpu")


def test_unknown_architectures_and_uses_are_refused() -> None:
    with pytest.raises(UserError, match="unknown architecture 'pixart-sigma-51': did you mean 'pixart-sigma-512'"):
        build("pixart-sigma-51")
    with pytest.raises(UserError, match="random weights, which serve cost alone: use `python -m harness profile"):
        load("random:pixart-sigma-512")


@pytest.mark.parametrize("name", ["dense", "uniform", "tome", "diffcr", "static"])
def test_the_papers_convention_equals_fvcores_trace(on: Subject, name: str) -> None:
    chosen, backbone = candidate(name, on), on.backbone
    given = backbone.inputs(2, text_tokens=7)
    with attached(backbone, chosen.method, chosen.state), backbone.at(Step(10, 20, 500.0)):
        traced = flops.count(backbone.transformer, lambda: backbone.transformer(**given), images=1)
        with torch.no_grad(), counting() as ran:
            backbone.transformer(**given)
    assert traced.gmacs_paper is not None and ran.paper == round(traced.gmacs_paper * 1e9)
    assert ran.total == round(traced.gmacs * 1e9)


def test_on_meta_the_same_is_counted(on: Subject) -> None:
    setup = Setup(1, 16, 7, None)
    for name in TINY:
        chosen = candidate(name, on)
        here = executed(on, chosen, setup)
        on.backbone.transformer.to("meta")
        there = executed(on, chosen, setup)
        on.backbone.transformer.to_empty(device="cpu")
        assert (here.total, here.paper) == (there.total, there.paper), name
        for parameter in on.backbone.transformer.parameters():
            nn.init.normal_(parameter.detach(), std=0.02)


def test_dit_costs_what_its_paper_says(tmp_path: Path) -> None:
    """Peebles and Xie, 2023: 118.64 and 524.60 Gflops (MACs) per forward, attention included."""
    for size, gflops in ((256, 118.64), (512, 524.60)):
        made = harness.profile(
            "dense", model=f"random:dit-xl-2-{size}", device="meta", out=tmp_path / str(size)
        ).records[0]
        assert made.estimates["gmacs"].value == pytest.approx(2 * gflops, rel=0.001)


def test_parts_by_hand(on: Subject) -> None:
    tokens, width, text, layers, rows = 64, 32, 7, 3, 2
    found, shares = count(on, candidate("dense", on), Setup(1, 16, text, None))
    assert shares["attention"] == rows * layers * (4 * tokens * width**2 + 2 * tokens**2 * width)
    cross = 2 * (tokens + text) * width**2 + 2 * tokens * text * width
    assert shares["cross_attention"] == rows * layers * cross
    assert shares["mlp"] == rows * layers * 8 * tokens * width**2
    assert shares["routing"] == 0
    assert sum(shares.values()) == found.total
    kept = 44  # int(0.7 * 64)
    found, shares = count(on, candidate("uniform", on), Setup(1, 16, text, None))
    assert shares["routing"] == rows * layers * tokens * width
    assert shares["mlp"] == rows * layers * 8 * kept * width**2
    assert sum(shares.values()) == found.total
    _, shares = count(on, candidate("tome", on), Setup(1, 16, text, None))
    assert shares["routing"] == rows * layers * 16 * 48 * width  # one destination per 2 x 2 window


@pytest.mark.parametrize("name", ["uniform", "diffcr"])
def test_no_number_of_the_routed_path_goes_to_the_host(on: Subject, name: str) -> None:
    """A copy to the host would make a GPU wait, in every layer."""
    chosen, backbone = candidate(name, on), on.backbone

    def marked(call: Call) -> Tensor:
        with record_function("inside a block"):
            return call.run(call.x)

    with (
        backbone.advise("block", marked), attached(backbone, chosen.method, chosen.state), torch.no_grad(),
        backbone.at(Step(10, 20, 500.0)), profile(activities=[ProfilerActivity.CPU]) as seen,
    ):  # fmt: skip
        backbone.transformer(**backbone.inputs(2, text_tokens=7))
    inside: list[str] = []

    def gather(event: object) -> None:
        for child in event.cpu_children:  # type: ignore[attr-defined]
            inside.append(child.name)
            gather(child)

    blocks = [event for event in seen.events() if event.name == "inside a block"]
    for event in blocks:
        gather(event)
    assert len(blocks) == 3 and inside.count("aten::topk") == 3
    waits = {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"}
    assert not waits & set(inside)


def test_ratio_tables(tmp_path: Path) -> None:
    path = tmp_path / "ratios.csv"
    rows = [(layer, region, 0.1 * layer + 0.2 * region) for region in range(2) for layer in range(3)]
    pd.DataFrame(rows, columns=list(ratio_table.COLUMNS)).to_csv(path, index=False)
    assert torch.allclose(ratio_table.read(path, 3), torch.tensor([[0.0, 0.2], [0.1, 0.3], [0.2, 0.4]]))
    for text, said in {
        "layer,ratio\n0,0.1\n": "has no column region",
        "layer,region,ratio\n0,0,1.5\n": r"line 2: .* compression ratio in \[0, 0.9\], got 0, 0, 1.5",
        "layer,region,ratio\n0,0,a\n": "line 2: expected",
        "layer,region,ratio\n1e400,0,0.1\n": "line 2: expected",
        "layer,region,ratio\n0,1000000000000,0.1\n": "lacks layer 0, region 0",
        "layer,region,ratio\n0,0,0.1\n0,0,0.2\n": "line 3: layer 0, region 0 stands there twice",
        "layer,region,ratio\n0,0,0.1\n1,0,0.2\n": "lacks layer 2, region 0; the model has 3 layers",
        "layer,region,ratio\n" + "".join(f"{layer},0,0.1\n" for layer in range(4)): "has rows for 4 layers",
        "": "cannot be read",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            ratio_table.read(path, 3)
    with pytest.raises(UserError, match="cannot be read"):
        ratio_table.read(tmp_path / "absent.csv", 3)


def test_profile_of_a_folder_on_the_cpu(tiny_folder: Path, tmp_path: Path) -> None:
    rows = [(layer, region, 0.2 + 0.2 * region) for region in range(2) for layer in range(3)]
    ratios, out = tmp_path / "ratios.csv", tmp_path / "out.csv"
    pd.DataFrame(rows, columns=list(ratio_table.COLUMNS)).to_csv(ratios, index=False)
    said = CliRunner().invoke(
        app,
        ["profile", "--model", str(tiny_folder), "--methods", "uniform,diffcr,dense-ft", "--ratios", "0.3", "--batch",
         "1,2", "--text-tokens", "9", "--rounds", "2", "--ratio-table", str(ratios), "--csv", str(out),
         "--out", str(tmp_path / "run")],
    )  # fmt: skip
    assert said.exit_code == 2 and "no cost is made up" in said.stderr
    said = CliRunner().invoke(
        app,
        ["profile", "--model", str(tiny_folder), "--methods", "uniform,diffcr", "--ratios", "0.3", "--batch", "1,2",
         "--text-tokens", "9", "--rounds", "2", "--ratio-table", str(ratios), "--csv", str(out),
         "--out", str(tmp_path / "run")],
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    frame = pd.read_csv(out)
    assert list(frame["batch"]) == [1] * 3 + [2] * 3 and set(frame["text_tokens"]) == {9}
    assert set(frame["outcome"]) == {"ok"}
    row = frame[(frame["method"] == "diffcr") & (frame["batch"] == 1)].iloc[0]
    assert row["ratio"] == pytest.approx(0.3) and row["ratio_reached"] == pytest.approx(0.3)
    assert "ratios.csv" in row["state"]
    assert (frame["latency_ratio_low"] <= frame["latency_ratio"]).all() and (frame["peak_resident_mb"] > 1).all()
    assert frame["energy_j"].isna().all() and (frame["peak_memory_mb"] > 0).all()
    assert frame["gmacs"].iloc[0] == pytest.approx(frame["gmacs"].iloc[3])  # per image
    parts = [f"latency_{name}_s" for name in ("attention", "cross_attention", "mlp", "routing", "rest")]
    assert (frame[parts] >= 0).all(axis=None) or (frame[parts].min(axis=None) > -1e-4)


def test_weights_are_those_that_the_method_holds(tiny_folder: Path, tmp_path: Path) -> None:
    """Half the layers never run, or are float16: they are no longer in memory, or in half of it."""
    run = harness.profile(
        methods=["depth", "precision"], model=str(tiny_folder), ratios=[0.4], rounds=2, out=tmp_path / "run"
    )
    memory = {record.method: record.estimates["peak_memory_mb"] for record in run.records}
    block = memory["dense"].value - memory["depth"].value
    denoiser = load(str(tiny_folder)).backbone
    weights = sum(p.numel() * p.element_size() for p in denoiser.blocks[0].parameters()) / 2**20
    assert block >= 0.9 * weights and "but for blocks that never run" in memory["depth"].convention
    assert memory["precision"].value < memory["dense"].value - weights


def test_refusals_and_failures(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"model": str(tiny_folder), "ratios": [0.2], "rounds": 2, "out": tmp_path / "run"}
    with pytest.raises(UserError, match="'fbcache' cannot be profiled .* reuses earlier sampling steps"):
        harness.profile(methods=["fbcache"], **shared)
    with pytest.raises(UserError, match="device meta is for models with random weights"):
        harness.profile(methods=["tome"], device="meta", **shared)
    with pytest.raises(UserError, match="batch: expected whole numbers from 1 to 16384, got 0"):
        harness.profile(methods=["tome"], batch=[0], **shared)
    with pytest.raises(UserError, match="generates all tokens of its canvas"):
        harness.profile(methods=["tome"], mask_tokens=4, **shared)
    with pytest.raises(UserError, match="no method of this profile takes one"):
        harness.profile(methods=["tome"], ratio_table=Path("x.csv"), **shared)

    def full(*_: object) -> object:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(memory, "peak", full)
    made = harness.profile(methods=["tome"], **shared)
    assert [record.outcome for record in made.records] == ["failed"] * 2
    assert "out of memory at a peak of" in made.records[0].reason and "smaller --batch" in made.records[0].reason
    assert step_costs.frame(made)["gmacs"].isna().all()


def test_published_text_to_image_costs() -> None:
    found = cells("table1", ["PixArt-Sigma", "ToMe", "MoD", "DiffCR-L"])
    known = [cell for cell in found if deviation(cell) is not None]
    assert len(known) == 6  # dense, ToMe at 10 % and MoD, each at two batch sizes
    assert all(abs(deviation(cell) or 0) < 1e-5 for cell in known)
    assert all(abs(cell.paper / cell.published - 1) < 0.001 for cell in known if cell.name != "ToMe")  # type: ignore[operator]
    learned = [cell for cell in found if cell.learned]
    assert learned and all(cell.kept == pytest.approx(0.801, abs=0.001) for cell in learned)


def test_published_inpainting_costs() -> None:
    found = cells("table2", ["Lazy Diffusion", "LD + model pruning", "LD + ToMe", "RegenerateImage", "SDXL"])
    known = [cell for cell in found if deviation(cell) is not None]
    assert len(known) == 5
    assert all(abs(deviation(cell) or 0) < 0.005 for cell in known)
    assert all(cell.bare == pytest.approx(cell.published, rel=2.5e-4) for cell in known)
    assert {cell.name for cell in found if not cell.explained} == {"RegenerateImage"}


def test_a_profile_takes_finished_points_over_from_one_beside_it(tiny_folder: Path, tmp_path: Path) -> None:
    one, other = (
        harness.profile("tome", model=str(tiny_folder), ratios=[0.3], rounds=2, out=tmp_path / name) for name in "ab"
    )
    assert [record.started for record in one.records] == [record.started for record in other.records]


def test_attention_that_a_method_runs_itself_is_attention(on: Subject) -> None:
    """AT-EDM takes its maps from it; what ranks tokens is next to nothing."""
    setup = Setup(1, 16, 7, None)
    _, dense = count(on, candidate("dense", on), setup)
    _, shares = count(on, candidate("at-edm", on, 0.1), setup)
    assert shares["attention"] > 0.8 * dense["attention"] and shares["routing"] < 0.3 * dense["attention"]
    assert "attend" not in vars(on.backbone)
