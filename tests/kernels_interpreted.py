"""The kernels of routing in Triton's interpreter, against the plain forms. Run by `test_kernels.py` in a process of its
own: the interpreter has to be chosen before Triton is imported."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel
from support import state_for
from test_operators import Operators
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import _disable_current_modes
from triton.runtime.interpreter import GridExecutor

from harness.attach import attached, stepping
from harness.backbones.base import Backbone
from harness.backbones.dit import DiT
from harness.backbones.pixart import PixArt
from harness.compose import method_class
from harness.kernels import routing, triton_routing
from harness.limit import Seen
from harness.measure.torch_counter import counting
from harness.models import load
from harness.profiling import costs
from harness.profiling.subject import Candidate, Setup, Subject
from harness.spec import Call, Step

SIDE = 6  # of the latents: the interpreter takes milliseconds for each token
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
BOTH = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(autouse=True)
def _interpreted() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad(), routing.using("interpreter"):
        yield


def same(ours: Tensor, plain: Tensor, dtype: torch.dtype) -> None:
    assert ours.dtype == plain.dtype
    torch.testing.assert_close(ours, plain, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("tokens", [1, 2, 3, 15, 17, 128, 129, 1000, 4096])
@BOTH
def test_exactly_the_k_highest_are_chosen(tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if tokens > 200:  # the interpreter takes milliseconds for each program
        monkeypatch.setattr(triton_routing, "_ROWS", 512)
        monkeypatch.setattr(triton_routing, "_COLUMNS", 512)
    logits = torch.randn(2, tokens).to(dtype)
    noise = torch.randn(3, 4, tokens + 5)[1, -2:, :tokens]  # as SeededNoise gives it: a view
    for k in {1, (tokens + 1) // 2, tokens} if tokens < 200 else {tokens // 3}:
        for added in (None, noise):
            order, factor = routing.select(logits, k, added, 2.0)
            assert torch.equal(order.sort(1).values, torch.arange(tokens).expand(2, -1)), "each token once"
            ranked = logits.float() if added is None else added + logits
            expected = ranked.topk(k, dim=1).values
            assert torch.equal(ranked.gather(1, order[:, :k]).sort(1, descending=True).values, expected)
            assert factor is not None
            same(factor, logits.gather(1, order[:, :k]).sigmoid() * 2.0, dtype)


def test_many_images_each_choose_for_themselves() -> None:
    logits = torch.randn(32, 40)
    order, factor = routing.select(logits, 29)
    assert factor is None
    assert torch.equal(order[:, :29].sort(1).values, logits.topk(29, dim=1).indices.sort(1).values)


@pytest.mark.parametrize(
    "row",
    [
        [0.0] * 7, [0.0, -0.0, 1.0, -1.0, 0.0, -0.0, 1.0], [float("-inf")] * 3 + [float("inf"), 2.0, 2.0, 2.0],
        [1e-45, -1e-45, 0.0, 3e38, -3e38, 1.0, 1.0], [float("nan"), 1.0, 1.0, float("nan"), 2.0, 0.0, 1.0],
    ],
)  # fmt: skip
def test_ties_and_extremes_give_exactly_k(row: list[float]) -> None:
    logits = torch.tensor([row])
    for k in range(1, 8):
        order, _ = routing.select(logits, k)
        assert sorted(order[0].tolist()) == list(range(7))
        if not logits.isnan().any():
            assert torch.equal(logits[0, order[0, :k]].sort().values, logits.topk(k).values[0].sort().values)


def drawn(batch: int, tokens: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Tokens, an order of them, and the parts of a modulation, as views of one tensor."""
    x = (torch.randn(batch, tokens, width) * 3 + 1).to(dtype)
    order = torch.rand(batch, tokens).argsort(1)
    return x, order, torch.randn(batch, 6, width).to(dtype).chunk(6, dim=1)


SHAPES = [(1, 1, 1, 96), (1, 9, 1, 128), (2, 9, 9, 96), (32, 4, 3, 96), (1, 17, 11, 1152), (2, 65, 7, 128)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@BOTH
def test_tokens_are_taken_normed_and_modulated(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    batch, tokens, k, width = shape
    x, order, (shift, scale, *_) = drawn(batch, tokens, width, dtype)
    rows, modulated = routing.take_modulated(x, order[:, :k], shift, scale, 1e-6)
    with routing.using("plain"):
        expected, exact = routing.take_modulated(x.float(), order[:, :k], shift.float(), scale.float(), 1e-6)
    assert torch.equal(rows, expected.to(dtype))
    same(modulated, exact.to(dtype), dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scored", [False, True])
@BOTH
def test_tokens_are_put_back(shape: tuple[int, int, int, int], scored: bool, dtype: torch.dtype) -> None:
    batch, tokens, k, width = shape
    x, order, (gate, *_) = drawn(batch, tokens, width, dtype)
    before = x.clone()
    residual, branch = torch.randn(2, batch, k, width).to(dtype).unbind()
    factor = torch.rand(batch, k).to(dtype) if scored else None
    with routing.using("plain"):
        given = [None if one is None else one.float() for one in (residual, branch, gate, factor)]
        expected = routing.put_gated(x.float(), order, *given).to(dtype)  # type: ignore[arg-type]
    for index in (order, order[:, :k]):
        same(routing.put_gated(x, index, residual, branch, gate, factor), expected, dtype)
        assert torch.equal(x, before)


class Launches:
    """Counts kernels of ours and operators of torch's, views and uninitialised memory left out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernels: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        original = GridExecutor.__call__

        def launch(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self.kernels[executor.fn.__name__] += 1
            with _disable_current_modes():  # what the interpreter itself does
                return original(executor, *args, **kwargs)

        monkeypatch.setattr(GridExecutor, "__call__", launch)
        monkeypatch.setattr(routing, "_observed", lambda: False)  # the count itself is an observer

    @property
    def total(self) -> int:
        return self.kernels.total() + self.operators.total()

    def of(self, backbone: Backbone, name: str, facts: dict[str, Any], **settings: Any) -> Tensor:
        """One step with a method on, block 1 counted; the transformer's output."""
        cls = method_class(name)
        method = cls(cls.Settings.model_validate(settings))
        state = state_for(method, backbone)
        if state is not None:
            state.facts.update(facts)
        self.kernels.clear()
        self.operators.clear()
        torch.manual_seed(1)
        given = backbone.inputs(2, text_tokens=7, size=SIDE if isinstance(backbone, PixArt) else None)

        def outer(call: Call) -> Tensor:
            self.kernels.clear()
            with Operators() as seen:
                out = call.run(call.x)
            self.operators = Counter({op: n for op, n in seen.found.items() if not op.startswith("empty")
                                      and not op.startswith("new_empty")})  # fmt: skip
            self.last = Counter(self.kernels)
            return out

        attaching = stepping(backbone, method, state)
        with backbone.advise("block", outer, [1]), attaching, backbone.at(Step(2, 4, 500.0)):
            out: Tensor = backbone.transformer(**given)[0]
        self.kernels = self.last
        return out


ROUTED = [
    ("uniform", {"rescale": "none"}, {}),
    ("uniform", {"rescale": "none", "noise": 0.45}, {}),
    ("diffcr", {"rescale": "mlp", "score_scale": 1.0, "noise": 0.45}, {}),
    ("uniform", {"rescale": "none"}, {"control": "average-tokens"}),
    ("random", {}, {}),
    ("sensitivity", {}, {}),
]


@pytest.mark.parametrize(("name", "facts", "settings"), ROUTED)
def test_a_fused_step_equals_a_plain_one(
    name: str, facts: dict[str, Any], settings: dict[str, Any], backbone: PixArt, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = Launches(monkeypatch)
    ours = launches.of(backbone, name, facts, ratio=0.3, **settings)
    assert launches.kernels["put_kernel"] == 1
    with routing.using("plain"):
        plain = launches.of(backbone, name, facts, ratio=0.3, **settings)
    assert not launches.kernels
    same(ours, plain, torch.float32)


@pytest.mark.parametrize(("name", "facts", "settings"), ROUTED[:3])
def test_a_fused_block_launches_no_more_than_a_dense_one(
    name: str, facts: dict[str, Any], settings: dict[str, Any], backbone: PixArt, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = Launches(monkeypatch)
    launches.of(backbone, "dense", {})
    dense = launches.total
    launches.of(backbone, name, facts, ratio=0.3, **settings)
    fused = launches.total
    assert launches.kernels == {"order_kernel": 1, "take_kernel": 1, "put_kernel": 1}
    with routing.using("plain"):
        launches.of(backbone, name, facts, ratio=0.3, **settings)
    print(f"{name} {facts}: dense {dense}, plain {launches.total}, fused {fused}")
    assert fused <= dense - 2 < launches.total


def test_dit_has_the_fused_form_too(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = DiT(
        DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, num_layers=3, sample_size=8,
            patch_size=2, norm_type="ada_norm_zero", num_embeds_ada_norm=10,
        ).eval()
    )  # fmt: skip
    for name, parameter in backbone.transformer.named_parameters():
        if "norm1.linear" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    launches = Launches(monkeypatch)
    ours = launches.of(backbone, "uniform", {"rescale": "mlp"}, ratio=0.3)
    assert launches.kernels.total() == 3
    with routing.using("plain"):
        same(ours, launches.of(backbone, "uniform", {"rescale": "mlp"}, ratio=0.3), torch.float32)


def test_other_advice_keeps_its_place(backbone: PixArt, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around the MLP it sees the factor's product as without kernels; inside the block's advice it takes the fused form
    away, which is said once."""
    launches = Launches(monkeypatch)

    def rounded(call: Call) -> Tensor:
        return call.run(call.x).round(decimals=1)

    def step() -> Tensor:
        return launches.of(backbone, "uniform", {"rescale": "mlp"}, ratio=0.3)

    with backbone.advise("mlp", rounded):
        ours = step()
        assert launches.kernels.total() == 3
        with routing.using("plain"):
            same(ours, step(), torch.float32)
    cls = method_class("uniform")
    method = cls(cls.Settings.model_validate({"ratio": 0.3}))
    routing.say_once.cache_clear()
    attaching = stepping(backbone, method, state_for(method, backbone))
    with attaching, backbone.advise("block", rounded), backbone.at(Step(0, 4, 500.0)), pytest.warns() as seen:
        backbone.transformer(**backbone.inputs(2, text_tokens=7))
    assert ["no fused form" in str(one.message) for one in seen] == [True]


def test_who_counts_tokens_for_a_limit_is_no_other_method(backbone: PixArt) -> None:
    cls = method_class("uniform")
    method = cls(cls.Settings.model_validate({"ratio": 0.3}))
    routing.say_once.cache_clear()
    seen = Seen()
    attaching = stepping(backbone, method, state_for(method, backbone))
    with attaching, seen.on(backbone), backbone.at(Step(0, 4, 500.0)), warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.transformer(**backbone.inputs(2, text_tokens=7, size=SIDE))
    assert seen.thinned and routing.usable(torch.randn(1, 4, 8))  # and the kernels are back


def test_the_parts_of_a_step_are_timed_without_kernels(backbone: PixArt) -> None:
    """Since what reads the clock stands between a method and its blocks, where nothing can be fused."""
    cls = method_class("uniform")
    method = cls(cls.Settings.model_validate({"ratio": 0.3}))
    on = Subject(backbone, torch.device("cpu"), SIDE, 7, "", "", lambda: backbone)
    routing.say_once.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        candidate = Candidate(method, state_for(method, backbone), "")
        estimates, _ = costs.measured(2, on, candidate, Setup(1, SIDE, 7, None))
    assert "no kernels fused" in estimates["latency_routing_s"].convention
    assert estimates["latency_ratio"].value > 0


def test_counters_and_gradients_see_the_plain_form(backbone: PixArt) -> None:
    x = torch.randn(1, 4, 8)
    assert routing.usable(x)
    assert not routing.usable(x.double()) and not routing.usable(x.to("meta"))
    with counting():
        assert not routing.usable(x)
    with torch.enable_grad():
        assert not routing.usable(x)
    with routing.using("plain"):
        assert not routing.usable(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not routing.usable(x)
    cls = method_class("uniform")
    method = cls(cls.Settings.model_validate({"ratio": 0.3}))
    given = backbone.inputs(2, text_tokens=7)

    def macs() -> int:
        attaching = attached(backbone, method, state_for(method, backbone))
        with counting() as found, attaching, backbone.at(Step(0, 4, 500.0)):
            backbone.transformer(**given)
        return found.total

    counted = macs()
    with routing.using("plain"):
        assert counted == macs()


def test_the_embedded_model_takes_the_fused_form() -> None:
    backbone = load("shapes").backbone
    found: list[object] = []

    def block(call: Call) -> Tensor:
        found.append(call.run_rows)
        return call.run(call.x)

    with backbone.advise("block", block), backbone.at(Step(0, 4, 500.0)):
        backbone.transformer(**backbone.inputs(2, text_tokens=16))
    assert len(found) == backbone.layers and None not in found


@pytest.mark.parametrize(("name", "facts", "settings"), ROUTED)
def test_compiled_blocks_take_and_put_tokens_in_one_form_for_all_layers(
    name: str, facts: dict[str, Any], settings: dict[str, Any], backbone: PixArt, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = Launches(monkeypatch)
    given = backbone.inputs(2, text_tokens=7, size=SIDE)
    cls = method_class(name)
    method = cls(cls.Settings.model_validate({"ratio": 0.3, **settings}))
    state = state_for(method, backbone)
    if state is not None:
        state.facts.update(facts)

    def step() -> Tensor:
        with stepping(backbone, method, state), backbone.at(Step(2, 4, 500.0)):
            out: Tensor = backbone.transformer(**given)[0]
        return out

    with routing.using("plain"):
        plain = step()
    torch._dynamo.reset()
    counters.clear()
    with backbone.compiled_blocks():
        ours = step()
    same(ours, plain, torch.float32)
    assert set(launches.kernels) <= {"order_kernel"}
    if facts.get("rescale") != "mlp":  # which puts advice inside the blocks, compiled along layer by layer
        assert counters["stats"]["unique_graphs"] == 1
