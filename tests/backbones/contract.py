"""One contract for every family of backbones: registering means being tested.

A test file makes a `Family` (what is particular about it, on a shrunken random instance of the true class) and a class
that inherits from `Contract`. docs/backbones.md is rendered from the families and these checks.

Letters: B batch (CFG halves included), N image tokens, K kept tokens, L text tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, get_args

import pytest
import torch
import torch.nn.functional as F
from support import build, state_for
from torch import Tensor, nn

from harness import registry
from harness.attach import attached, check
from harness.backbones import lora
from harness.backbones.base import Backbone
from harness.backbones.following import track_sampler
from harness.errors import UserError
from harness.limit import Seen, dense_on
from harness.measure.torch_counter import counting
from harness.spec import Call, Part, State, Step
from harness.tokens import scatter, take
from methods.uniform import Uniform

METHODS = [name for name in registry.methods if name != "compile"]  # compiling takes its time: `test_compiled`
GRID, STEPS, RATIO = (5, 7), 6, 0.3
Macs = Callable[[Mapping[str, Any], Sequence[int] | None], int]
"""(config, image tokens that each layer processes, None for all) -> MACs of a forward at batch 1 on `GRID`."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the contract has to know about a family.

    name: in the registry. about: its title in docs/backbones.md. make: a shrunken instance whose blocks matter (no gate
    near zero). noise: (model, B, (H, W)) -> what the sampler denoises, drawn from the global random state. call:
    (model, noise, timestep) -> arguments of a forward, where the text differs from sample to sample and depends on B
    alone. macs: the hand count. scheduler, timesteps: the pipeline's kind of sampler, and what the pipeline gives to
    its `set_timesteps` for so many steps. guided: whether its batches hold both CFG halves. image_at: which entry of a
    block's output the image tokens are, None where it is a tensor. keys: for joint attention, image keys (B, N) -> all
    keys (B, S). masked: a context in which a block attends to some image tokens (B, N) alone, by default through fused
    attention's mask.
    """

    name: str
    about: str
    make: Callable[[], nn.Module]
    noise: Callable[[Any, int, tuple[int, int]], Tensor]
    call: Callable[[Any, Tensor, Tensor], dict[str, Any]]
    macs: Macs
    scheduler: Callable[[], Any]
    timesteps: Callable[[int], dict[str, Any]] = lambda steps: {"num_inference_steps": steps}
    guided: bool = True
    grid: tuple[int, int] = GRID
    image_at: int | None = None
    keys: Callable[[Tensor], Tensor] | None = None
    masked: Callable[[Family, nn.Module, Tensor], AbstractContextManager[None]] | None = None

    def backbone(self) -> Backbone:
        backbone: Backbone = registry.backbones.get(self.name)(seeded(self.make))
        return backbone

    def forward(self, backbone: Backbone, batch: int = 2, grid: tuple[int, int] | None = None) -> Tensor:
        """One forward at the first step."""
        with torch.random.fork_rng():
            torch.manual_seed(batch)
            x = self.noise(backbone.transformer, batch, grid or self.grid)
        with torch.no_grad(), backbone.at(Step(0, STEPS, 900.0)):
            out: Tensor = backbone.transformer(
                **self.call(backbone.transformer, x, torch.full((batch,), 900.0)), return_dict=False
            )[0]
        return out

    def generate(self, backbone: Backbone, batch: int = 1, seed: int = 0, steps: int = STEPS) -> Tensor:
        """Latents, made as the family's pipeline makes them."""
        scheduler, model = self.scheduler(), backbone.transformer
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            x = self.noise(model, batch, self.grid)
        with torch.no_grad(), track_sampler(backbone, SimpleNamespace(scheduler=scheduler), guided=self.guided):
            scheduler.set_timesteps(**self.timesteps(steps))
            for t in scheduler.timesteps:
                given = torch.cat([x, x]) if self.guided else x
                out = model(**self.call(model, given, t.expand(len(given))), return_dict=False)[0]
                out = out[:, : x.shape[1]]  # without learned variances
                if self.guided:
                    without, with_text = out.chunk(2)
                    out = without + 2.0 * (with_text - without)
                x = scheduler.step(out, t, x, return_dict=False)[0]
        return x


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A model for inference, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


def traces(model: nn.Module) -> list[Any]:
    """All that a method could leave behind in a model, for comparison by equality."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    places = [(name, value.data_ptr(), value.requires_grad) for name, value in model.named_parameters()]
    modules = [
        (name, type(module), sorted(vars(module)), id(vars(module).get("processor")),
         len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]  # fmt: skip
    return [[(name, value.tolist()) for name, value in tensors.items()], places, modules]


@contextmanager
def keys_alone(family: Family, _block: nn.Module, keep: Tensor) -> Iterator[None]:
    """Fused attention over image tokens, or over image and text, sees the kept image tokens (B, N) and all text."""
    every = keep if family.keys is None else family.keys(keep)  # (B, S)
    masks = {mask.shape[1]: mask for mask in (keep, every)}
    original = F.scaled_dot_product_attention

    def masked(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **rest: Any) -> Tensor:
        if key.shape[-2] in masks:
            assert attn_mask is None
            attn_mask = masks[key.shape[-2]][:, None, None, :]
        return original(query, key, value, attn_mask=attn_mask, **rest)

    F.scaled_dot_product_attention = masked  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


@contextmanager
def slow_routing(
    family: Family, backbone: Backbone, kept: Sequence[Tensor], router: Tensor, rescale: str
) -> Iterator[None]:
    """The reference: every block runs on all its tokens, those that bypass it are no keys of its attention, and
    afterwards they are put back as they came. kept: (B, K) per layer. router: (layers, D)."""
    with ExitStack() as stack:
        for layer, block in enumerate(backbone.blocks):
            running, came = ExitStack(), []
            split = "mlp" in backbone.parts_of(layer)

            def before(
                module: nn.Module, args: Any, kwargs: Any, layer: int = layer, running: Any = running, came: Any = came
            ) -> None:
                x = args[0] if args else kwargs["hidden_states"]
                came[:] = [x]
                keep = torch.zeros(x.shape[:2], dtype=torch.bool).scatter(1, kept[layer], True)
                running.enter_context((family.masked or keys_alone)(family, module, keep))

            def score(layer: int = layer, came: Any = came) -> Tensor:
                return 2 * (came[0] @ router[layer]).sigmoid()[..., None]

            def branch(_module: nn.Module, _args: Any, out: Tensor, score: Any = score) -> Tensor:
                if out.ndim == 4:  # (B, D, h, w)
                    return score().transpose(1, 2).unflatten(2, out.shape[2:]) * out
                return score() * out

            def after(
                _module: nn.Module, _args: Any, out: Any, layer: int = layer, running: Any = running, came: Any = came,
                score: Any = score, split: bool = split,
            ) -> Any:  # fmt: skip
                running.close()
                image, x = (out if family.image_at is None else out[family.image_at]), came[0]
                if rescale == "mlp" and not split:
                    image = x + score() * (image - x)
                image = scatter(x, kept[layer], take(image, kept[layer]))
                if family.image_at is None:
                    return image
                return tuple(image if i == family.image_at else one for i, one in enumerate(out))

            for hook in (
                block.register_forward_pre_hook(before, with_kwargs=True),
                block.register_forward_hook(after),
                *([backbone.module(layer, "mlp").register_forward_hook(branch)] if rescale == "mlp" and split else ()),
            ):
                stack.callback(hook.remove)
        yield


def routed(backbone: Backbone, rescale: str) -> tuple[Uniform, State]:
    generator = torch.Generator().manual_seed(1)
    router = torch.randn(backbone.layers, backbone.width, generator=generator)
    method = Uniform(Uniform.Settings.model_validate({"ratio": RATIO}))
    return method, State({"router": router}, {"rescale": rescale, "score_scale": 2.0})


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
