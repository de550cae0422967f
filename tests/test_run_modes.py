"""Modes of execution of a sweep: latency beside eager's, added to what is there, and what a mode cannot do."""

import functools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support import command
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

import harness
from harness import config, modes, timing
from harness.engine import OpenWorkload
from harness.errors import UserError
from results import Record, Run
from results.record import Estimate

Sweep = Callable[..., Run]
FIGURES = ("latency_s", "latency_ratio", "latency_limit_ratio", "latency_overhead")


@pytest.fixture
def sweep(small: dict[str, Any], tmp_path: Path) -> Sweep:
    settings = {**small, "ratios": [0.5], "metrics": "alignment", "out": tmp_path / "run"}
    return lambda methods="random", **more: harness.run(methods, **{**settings, **more})


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code is what was traced, without a C++ compiler."""
    compiler = functools.partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda f, mode=None, **rest: compiler(f, **rest))


def of(run: Run, method: str) -> Record:
    (record,) = (one for one in run.records if one.method == method)
    return record


def test_a_mode_is_added_to_a_finished_run(sweep: Sweep, traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep()
    assert not any("[" in name for name in of(first, "random").estimates if name.startswith("latency"))

    def refuse(*_: object) -> None:
        raise AssertionError("images are made again")

    with monkeypatch.context() as patched:
        patched.setattr(OpenWorkload, "generate", refuse)
        patched.setattr("harness.engine.judged", refuse)  # quality is measured once
        both = sweep(mode="compile,eager")
    assert [record.outcome for record in both.records] == ["ok", "ok"]
    before, now = of(first, "random"), of(both, "random")
    assert now.key != before.key
    assert now.sample_key == before.sample_key
    assert now.fingerprint == before.fingerprint
    assert {name: now.estimates[name] for name in before.estimates} == before.estimates
    assert now.estimates.keys() - before.estimates.keys() == {f"{name}[compile]" for name in FIGURES}
    assert now.environment["timed_by_commit"]
    assert "judged_by_commit" not in now.environment
    assert "mode compile" in now.estimates["latency_ratio[compile]"].convention
    assert [len(now.samples[f"latency_{who}_s[compile]"]) for who in ("method", "dense", "limit")] == [2, 2, 2]
    assert "latency_limit_ratio[compile]" not in of(both, "dense").estimates

    folder = both.folder
    assert folder is not None
    drawn = harness.open_run(folder)
    assert len(drawn.records) == 2  # the newest of each point
    assert list(drawn.costs)[:3] == ["gmacs", "latency_ratio", "latency_ratio[compile]"]
    assert len(drawn.pareto("latency_ratio[compile]", "alignment")) == 2
    assert drawn.frame["latency_ratio[compile]_low"].notna().all()
    assert "◆" in (folder / "tables" / "summary.md").read_text()
    assert list((folder / "plots").glob("pareto_latency_ratio*compile*_vs_alignment.png"))

    monkeypatch.setattr(OpenWorkload, "run", refuse)  # all is there
    again = sweep(mode=["eager", "compile"])
    assert of(again, "random") == now
    assert of(sweep(), "random") == before  # the key of a run without modes is what it was


def test_a_mode_that_fails_says_why_and_is_tried_again(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory")

    def measured(mode: Any, on: Any, method: Any, *rest: Any) -> Any:
        if method.name == "random" and full.args:
            raise full
        figure = Estimate(value=0.5, n=2, unit="s", convention="made up", role="cost", better="lower")
        return {f"latency_ratio[{mode}]": figure}, {}

    monkeypatch.setattr(timing, "measured", measured)
    run = sweep(mode="compile")
    assert of(run, "dense").outcome == "ok"
    record = of(run, "random")
    assert record.outcome == "incomplete"
    assert record.reason.startswith("mode compile: out of memory: beside the model, the mode holds a copy")
    assert {"latency_ratio", "alignment"} <= record.estimates.keys()
    full.args = ()
    healed = of(sweep(mode="compile"), "random")
    assert healed.outcome == "ok"
    assert "latency_ratio[compile]" in healed.estimates


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_blocks_are_compiled_once_and_measured(sweep: Sweep) -> None:
    counters.clear()
    run = sweep(mode="compile")
    assert [record.reason for record in run.records] == ["", ""]
    # For dense all tokens, of which the first block has other strides; for the method and its limit half of them, too.
    assert counters["stats"]["unique_graphs"] <= 2 + 5
    assert 0.05 < of(run, "random").estimates["latency_ratio[compile]"].value < 20


def test_a_compiler_that_is_missing_is_named(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenError(RuntimeError):
        inner_exception = FileNotFoundError("no C++ compiler found")

    def broken(*_: object, **__: object) -> None:
        raise BrokenError("backend='inductor' raised:")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    record = of(sweep(mode="compile"), "random")
    assert record.reason == "mode compile: FileNotFoundError: no C++ compiler found"
    assert record.usable


def test_refused_modes(
    small: dict[str, Any], sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    arguments = ["run", "--model", str(small["model"]), "--out", str(tmp_path / "run")]
    assert command(monkeypatch, *arguments, "--mode", "eager,compile+graph") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the device is 'cpu': there, the modes are eager and compile" in said
    with pytest.raises(UserError, match="mode.0: Input should be 'eager', 'compile'"):
        sweep(mode="fast")
    config = tmp_path / "sweep.yaml"
    config.write_text("mode: [eager, graph]\n")
    with pytest.raises(UserError, match="captures CUDA graphs"):
        sweep(config=config)
    assert not (tmp_path / "run").exists()


class Fake:
    """A graph without a GPU: a replay runs again what was captured, into the same place."""

    def __init__(self, run: Callable[[], Any], out: Any) -> None:
        self.run, self.out = run, out

    def pool(self) -> int:
        return 7

    def replay(self) -> None:
        self.out[0].copy_(self.run()[0])


class FakeStep(Fake):
    """Of a run whose result nobody reads."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run

    def replay(self) -> None:
        self.run()


def stood_in(monkeypatch: pytest.MonkeyPatch) -> list[modes.Graphs]:
    """On the CPU with a stand-in for the capture: what graphs are made from now on."""
    made: list[modes.Graphs] = []

    class Seen(modes.Graphs):
        def __init__(self, region: Callable[[], Any]) -> None:
            super().__init__(region)
            made.append(self)

    def capture(run: Callable[[], Any], _device: torch.device, pool: Any = None) -> Any:
        out = run()
        return Fake(run, out), out

    monkeypatch.setattr(modes, "capture", capture)
    monkeypatch.setattr(modes, "Graphs", Seen)
    monkeypatch.setattr(modes, "check", lambda *_: None)
    return made


def test_a_graph_for_each_shape_and_region(monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[Any] = []

    def capture(run: Callable[[], Any], _device: torch.device, pool: Any = None) -> Any:
        pools.append(pool)
        out = run()
        return Fake(run, out), out

    monkeypatch.setattr(modes, "capture", capture)
    region = ["early"]
    graphs = modes.Graphs(lambda: region[0])

    def forward(x: Tensor, *, scale: float, text: dict[str, Tensor]) -> tuple[Tensor]:
        return (x * scale + text["states"],)

    def call(x: Tensor, scale: float = 2.0) -> Tensor:
        out: Tensor = graphs(forward, x, scale=scale, text={"states": torch.ones(1)})[0]
        return out

    first = call(torch.zeros(2))
    assert torch.equal(call(torch.ones(2)), torch.full((2,), 3.0))
    assert torch.equal(first, torch.ones(2))  # what a caller was given stays
    assert len(graphs) == 1
    for many, (x, scale, where) in enumerate(
        [(torch.ones(3), 2.0, "early"), (torch.ones(3), 3.0, "early"), (torch.ones(3), 3.0, "late")], start=2
    ):
        region[0] = where
        assert torch.equal(call(x, scale), x * scale + 1)
        assert len(graphs) == many
    assert pools == [None, 7, 7, 7]


def test_what_a_graph_reads_is_on_as_long_as_it_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged weights, say, which are freed when the method is taken off."""
    on = [False]

    @contextmanager
    def put_on() -> Iterator[None]:
        on[0] = True
        yield
        on[0] = False

    x, seen = torch.zeros(1), list[bool]()

    def step() -> tuple[Tensor]:
        seen.append(on[0])
        return (x,)

    def capture(run: Callable[[], Any], _device: torch.device, pool: Any = None) -> Any:
        out = run()
        return Fake(run, out), out

    monkeypatch.setattr(modes, "capture", capture)
    with modes.captured([step, step], put_on, torch.device("cpu")) as replay:
        replay()
        assert on[0]
    assert seen == [True] * 4 and not on[0]


def test_the_limit_of_a_profile_is_captured_without_the_method(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path: Path
) -> None:
    """Dense, the limit, the method: how many operators a step of each has."""
    counts: list[int] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counts[-1] += 1
            return func(*args, **(kwargs or {}))

    def capture(run: Callable[[], Any], _device: torch.device, pool: Any = None) -> Any:
        counts.append(0)
        with Count():
            out = run()
        return FakeStep(run), out

    monkeypatch.setattr(modes, "capture", capture)
    monkeypatch.setattr(modes, "check", lambda *_: None)
    run = harness.profile(
        methods=["random"], model=str(tiny_folder), ratios=[0.5], rounds=2, mode="graph", out=tmp_path / "run"
    )
    assert not run.failed()
    dense, limit, method = counts[-3:]
    assert dense <= limit < dense + 10 < method


@pytest.mark.parametrize("name", ["pab", "depth+taylorseer", "random+fbcache"])
def test_what_is_kept_between_steps_is_no_graph(name: str) -> None:
    method = config.method_of(name, {})
    assert "keeps what one sampling step computes" in modes.refusal("compile+graph", method)
    assert not modes.refusal("compile", method)


def test_steps_differ_where_a_part_runs_on_fewer_tokens(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """ToMe around the MLPs, first steps exempt: blocks run on all tokens in every step, their parts do not."""
    made = stood_in(monkeypatch)
    sweep(methods=[{"name": "tome", "around": "mlp", "first_steps": 0.5}], mode="graph")
    assert [len(one) for one in made] == [1, 1, 0, 1, 2, 0]  # dense twice; dense and the method, which has two regions


def test_graphs_of_a_sweep_go_by_the_tokens_of_each_step(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph serves all steps that run on as many tokens."""
    made = stood_in(monkeypatch)
    run = sweep("random,pab", mode="graph")
    assert [len(one) for one in made] == [1, 1, 0, 1, 1, 1]  # dense twice and no limit; dense, the method, its limit
    assert of(run, "random").outcome == "ok"
    assert "latency_overhead[graph]" in of(run, "random").estimates
    assert "keeps what one sampling step computes for another" in of(run, "pab").reason
