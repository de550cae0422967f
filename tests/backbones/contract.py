"""One contract for every family of backbones: registering means being tested.

A test file makes a `Family` (what is particular about it, on a shrunken random instance of the true class) and a class
that inherits from `Contract`. docs/backbones.md is rendered from the families and these checks.

Letters: B batch (CFG halves included), N image tokens, K kept tokens, L text tokens, D width.
"""

from __future__ import annotations

import math
from typing import ClassVar, get_args

import pytest
import torch
from families import RATIO, STEPS, Family, traces
from slow_routing import routed, slow_routing
from support import build, state_for
from torch import Tensor, nn

from harness import registry
from harness.attach import attached, check
from harness.backbones import lora
from harness.backbones.base import Backbone
from harness.errors import UserError
from harness.limit import Seen, dense_on
from harness.measure.torch_counter import counting
from harness.spec import Call, Part, State, Step
from harness.tokens import take

METHODS = [name for name in registry.methods if name != "compile"]  # compiling takes its time: `test_compiled`


class Contract:
    """Every family passes every check. The first line of a check's docstring is its column in docs/backbones.md."""

    family: ClassVar[Family]

    @pytest.fixture
    def backbone(self) -> Backbone:
        return self.family.backbone()

    def test_geometry(self, backbone: Backbone) -> None:
        """every layer sees every token of the grid"""
        seen: list[Call] = []

        def watch(call: Call) -> Tensor:
            seen.append(call)
            return call.run(call.x)

        with backbone.advise("block", watch):
            self.family.forward(backbone, 3)
        assert [call.layer for call in seen] == list(range(backbone.layers))
        assert all((call.grid.height, call.grid.width) == self.family.grid for call in seen)
        assert all(call.x.shape == (3, math.prod(self.family.grid), backbone.width) for call in seen)

    def test_idle_advice(self, backbone: Backbone) -> None:
        """idle advice is dense, bit for bit"""
        before, kept = traces(backbone.transformer), self.family.forward(backbone)
        every: set[Part] = {part for layer in range(backbone.layers) for part in backbone.parts_of(layer)}
        assert type(backbone).parts <= every
        for part in sorted(every):
            layers = [layer for layer in range(backbone.layers) if part in backbone.parts_of(layer)]
            seen: list[int] = []

            def idle(call: Call, seen: list[int] = seen) -> Tensor:
                seen.append(call.layer)
                return call.run(call.x)

            with backbone.advise(part, idle, layers), backbone.advise(part, idle, layers):
                assert torch.equal(self.family.forward(backbone), kept)
            assert sorted(seen) == sorted([*layers, *layers])
            assert traces(backbone.transformer) == before

    def test_absent_parts(self, backbone: Backbone) -> None:
        """absent parts are refused"""
        for part in set(get_args(Part)) - type(backbone).parts:
            absent = pytest.raises(UserError, match=f"has no separate '{part}'")
            with absent, backbone.advise(part, lambda call: call.x):
                pass

    def test_removal(self, backbone: Backbone) -> None:
        """removal is bit-exact, whatever is raised"""
        before, dense = traces(backbone.transformer), self.family.forward(backbone)

        def broken(call: Call) -> Tensor:
            index = torch.arange(0, call.x.shape[1], 2).expand(len(call.x), -1)
            call.run(take(call.x, index), index)
            raise ZeroDivisionError

        for part in sorted(type(backbone).parts):
            with pytest.raises(ZeroDivisionError), backbone.advise(part, broken):
                self.family.forward(backbone)
            assert traces(backbone.transformer) == before
        inner = backbone.module(0, "self_attention")
        handle = inner.register_forward_hook(lambda *_: 1 / 0)  # inside a part that runs on a subset
        with pytest.raises(ZeroDivisionError), attached(backbone, *routed(backbone, "none")):
            self.family.forward(backbone)
        handle.remove()
        assert traces(backbone.transformer) == before
        assert torch.equal(self.family.forward(backbone), dense)

    @pytest.mark.parametrize("rescale", ["none", "mlp"])
    def test_routing(self, backbone: Backbone, rescale: str) -> None:
        """routing equals a masking reference"""
        method, state = routed(backbone, rescale)
        kept: list[Tensor] = []

        def watch(call: Call) -> Tensor:
            assert call.index is not None
            kept.append(call.index)
            return call.run(call.x)

        dense = self.family.forward(backbone, 3)
        with attached(backbone, method, state), backbone.advise("block", watch):
            fast = self.family.forward(backbone, 3)
        tokens = math.prod(self.family.grid)
        assert [tuple(index.shape) for index in kept] == [(3, int((1 - RATIO) * tokens))] * backbone.layers
        assert not torch.equal(kept[0][0], kept[0][1])  # each sample its own
        with slow_routing(self.family, backbone, kept, state.tensors["router"], rescale):
            slow = self.family.forward(backbone, 3)
        assert (fast - slow).abs().max() < 1e-5
        assert (fast - dense).abs().max() > 1e-3

    def test_flops(self, backbone: Backbone) -> None:
        """FLOPs equal a hand count"""
        config, layers, tokens = backbone.transformer.config, backbone.layers, math.prod(self.family.grid)
        with counting() as dense:
            self.family.forward(backbone, 1)
        assert dense.total == self.family.macs(config, None) and not dense.unknown
        seen = Seen()
        with attached(backbone, *routed(backbone, "mlp")), seen.on(backbone), counting() as fewer:
            self.family.forward(backbone, 1)
        scores = layers * tokens * backbone.width
        assert fewer.total == self.family.macs(config, [int((1 - RATIO) * tokens)] * layers) + scores
        assert not fewer.unknown and seen.thinned
        with dense_on(backbone, seen.counts), counting() as limit:
            self.family.forward(backbone, 1)
        assert limit.total == fewer.total - scores

    @pytest.mark.parametrize("name", METHODS)
    def test_methods(self, backbone: Backbone, name: str) -> None:
        """methods run and leave no trace, or are refused"""
        method = build(name, RATIO)
        if reason := check(method, type(backbone)):
            assert type(backbone).__name__ in reason
            return
        state = state_for(method, backbone)
        before, dense = traces(backbone.transformer), self.family.generate(backbone)
        torch.manual_seed(3)
        random = torch.get_rng_state()
        with attached(backbone, method, state):
            first = self.family.generate(backbone)
            self.family.generate(backbone, 3, seed=7)
            again = self.family.generate(backbone)
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.equal(first, again)  # whatever ran in between
        assert torch.equal(first, dense) == (name in ("dense", "dense-ft"))
        assert first.isfinite().all()
        with pytest.raises(ZeroDivisionError), attached(backbone, method, state):
            raise ZeroDivisionError
        assert traces(backbone.transformer) == before
        assert torch.equal(self.family.generate(backbone), dense)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # the compiler's own
    def test_compiled(self, backbone: Backbone) -> None:
        """compiled, a routed step is the same but for rounding"""
        before, dense = traces(backbone.transformer), self.family.forward(backbone)
        plain, compiled = build("uniform", RATIO), build("uniform+compile", RATIO)
        state = state_for(plain, backbone)
        assert state is not None
        with attached(backbone, plain, state):
            eager = self.family.forward(backbone)
        with attached(backbone, compiled, State(parts={"uniform": state})):
            assert torch.allclose(self.family.forward(backbone), eager, atol=1e-4)
        assert not torch.allclose(eager, dense, atol=1e-2) and traces(backbone.transformer) == before

    def test_lora(self, backbone: Backbone) -> None:
        """LoRA"""
        for name in backbone.linear_names():
            found = [dict(block.named_modules()).get(name) for block in backbone.blocks]
            assert any(isinstance(one, nn.Linear) for one in found), f"{name} is in no block"
        dense = self.family.forward(backbone)
        names = [name for block in backbone.blocks for name, _ in block.named_modules()]
        inside = sum(name in backbone.linear_names() for name in names)
        trained = lora.inject(backbone, 2)
        assert len(trained) == 2 * inside
        assert torch.equal(self.family.forward(backbone), dense)  # B starts at zero
        other = self.family.backbone()
        state = {name: torch.full_like(value, 0.01) for name, value in lora.tensors(backbone).items()}
        before = traces(other.transformer)
        with lora.merged(other.transformer, state):
            assert not torch.allclose(self.family.forward(other), dense)
        assert traces(other.transformer) == before

    def test_inputs(self, backbone: Backbone) -> None:
        """profiling inputs"""
        seen: list[tuple[int, ...]] = []

        def watch(call: Call) -> Tensor:
            seen.append((*call.x.shape, call.grid.tokens))
            return call.run(call.x)

        with torch.no_grad(), backbone.at(Step(0, STEPS, 900.0)), backbone.advise("block", watch):
            backbone.transformer(**backbone.inputs(2, text_tokens=9, size=8))
        assert len(set(seen)) == 1 and seen[0][0] == 2
        meta = type(backbone)(backbone.transformer.to("meta"))
        with torch.no_grad(), counting() as executed:
            meta.transformer(**meta.inputs(2, text_tokens=9, size=8))
        assert executed.total > 0 and not executed.unknown
