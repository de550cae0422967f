"""What a family of DiTs says of its models: which module each part is, and how the part's tensors go in and out."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.spec import Ability, Call, Grid, Part


class Family(ABC):
    """What `Backbone` asks of its subclasses.

    classes: names of the diffusers transformer classes that it serves.
    parts: what every layer has (`parts_of` tells of layers that have more).
    capabilities: which of the optional views below it has.
    uses_positions: its blocks depend on where tokens stand (rotary embeddings, convolutions), so that `run` on a subset
        needs the index.
    rows_per_image: samples of a guided step's batch that one image takes.
    timestep_unit: the sampler's timestep is so many times what a call carries.
    """

    transformer: nn.Module
    _names: Sequence[str]  # of the arguments of its forward

    classes: ClassVar[frozenset[str]]
    parts: ClassVar[frozenset[Part]] = frozenset({"block", "self_attention", "cross_attention", "mlp"})
    capabilities: ClassVar[frozenset[Ability]] = frozenset()
    uses_positions: ClassVar[bool] = False
    rows_per_image: ClassVar[int] = 2
    timestep_unit: float = 1.0

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, in order."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels per token, D."""

    @abstractmethod
    def module(self, layer: int, part: Part) -> nn.Module:
        """The module whose `forward` is this part."""

    @abstractmethod
    def grid_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Grid:
        """The token grid of a call of the transformer."""

    def timestep_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | float | None:
        """The timestep that a call of the transformer carries; None: its calls carry none, and each is a step."""
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}.get("timestep")
        return None if isinstance(given, Tensor) and given.is_meta else given

    def parts_of(self, layer: int) -> frozenset[Part]:
        """The parts of one layer, where some layers have more than `parts`, which all of them have."""
        return self.parts

    def branches(self, layer: int) -> tuple[list[nn.Module], list[nn.Module]]:
        """The modules of a layer whose outputs are added to its streams, and those whose outputs only go into them."""
        return [self.module(layer, part) for part in sorted(self.parts_of(layer) - {"block"})], []

    def index_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """Which tokens of the grid (B, N) a call of the transformer is about; None: all of them."""
        return None

    @abstractmethod
    def linear_names(self) -> list[str]:
        """Names below a block of the linear layers that LoRA adapts."""

    def inputs(
        self, rows: int, *, text_tokens: int = 120, size: int | None = None, tokens: int | None = None
    ) -> dict[str, Any]:
        """Random arguments of one call of the transformer, on its device and in its precision, for cost alone.

        rows: samples, CFG halves included. size: side of the latents, by default the configured one. tokens: how many
        image tokens, for families that generate subsets of their canvas. Raises UserError for what the family has not.
        """
        raise NotImplementedError

    def attend(self, call: Call) -> tuple[Tensor, Tensor]:
        """What a self-attention part gives, (B, N, D), and its attention map, (B, heads, N, N), at the cost of
        attention that is not fused. For families that offer "attention maps"."""
        raise NotImplementedError

    @contextmanager
    def pruned_width(self, heads: Sequence[Tensor], channels: Sequence[Tensor]) -> Iterator[None]:
        """Self-attention with these heads and MLPs with these hidden channels alone, one index per layer. For families
        that offer "narrower blocks", as the next two are."""
        raise NotImplementedError
        yield

    @contextmanager
    def masked_width(self, heads: Sequence[Tensor], channels: Sequence[Tensor]) -> Iterator[None]:
        """Every head's output and every hidden MLP channel times a factor: (heads,) and (channels,) per layer."""
        raise NotImplementedError
        yield

    def extent(self) -> tuple[int, int]:
        """Self-attention heads and hidden MLP channels of a block, for `pruned_width` and `masked_width`."""
        raise NotImplementedError

    # -- joint blocks: image and text in one part --------------------------------------------------------------

    def split_streams(
        self, layer: int, part: Part, hidden_states: Tensor, kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """Image tokens and text of what a part is given."""
        return hidden_states, None

    def text_when_skipped(self, part: Part, text: Tensor | None) -> Tensor | None:
        """The text behind a part that did not run: as it came behind a block, no update behind another part."""
        return text if text is None or part == "block" else torch.zeros_like(text)

    def run_part(
        self,
        layer: int,
        part: Part,
        original: Callable[..., Any],
        x: Tensor,
        text: Tensor | None,
        kwargs: Mapping[str, Any],
        index: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The original part on tokens x (B, K, D), which stand at index (B, K), None for all: its image tokens and its
        text."""
        return original(x, **self.on_subset(kwargs, index)), None

    def run_rows(self, layer: int, kwargs: Mapping[str, Any]) -> functools.partial[Tensor] | None:
        """The block of a layer on some of its tokens, fused, with the arguments that it was given: a `RunRows` of a
        function that layers share, so that it is compiled once for all. None where a family, or this block, has no such
        form. Asked for only where `harness.kernels.routing` can run."""
        return None

    def merge_streams(self, layer: int, part: Part, image: Tensor, text: Tensor | None) -> Any:
        """What the part gives to the model: the inverse of `split_streams`, for outputs."""
        return image

    def key_weight_kwargs(self, sizes: Tensor) -> dict[str, Any]:
        """Arguments of self-attention that make each key count `sizes` (B, N) times, for families that offer "weighed
        keys"; others raise UserError."""
        raise UserError(f"{type(self).__name__} cannot weigh the keys of its attention")

    def on_subset(self, kwargs: Mapping[str, Any], index: Tensor | None) -> Mapping[str, Any]:
        """Arguments of a part for a subset of tokens. Families with per-token arguments index them here."""
        return kwargs
