"""What a method dispatches in a block beyond what a dense block does: on a GPU each operator is a launch or more."""

from collections import Counter
from typing import Any

import pytest
import torch
from support import state_for
from torch.utils._python_dispatch import TorchDispatchMode

from harness import attach
from harness.compose import method_class
from harness.models import load
from harness.spec import Call, Step

VIEWS = {
    "view", "_unsafe_view", "expand", "t", "transpose", "slice", "select", "unsqueeze", "squeeze", "permute", "detach",
    "alias", "as_strided", "split", "unbind", "split_with_sizes", "_reshape_alias",
}  # fmt: skip


class Operators(TorchDispatchMode):
    """Counts what is dispatched, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name not in VIEWS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def dispatched(name: str, facts: dict[str, Any], **settings: Any) -> Counter[str]:
    """By block 3 of the embedded PixArt with a method on, in the middle of the sampler's steps, both CFG halves."""
    backbone = load("shapes").backbone
    cls = method_class(name)
    method = cls(cls.Settings.model_validate(settings))
    state = state_for(method, backbone)
    if state is not None:
        state.facts.update(facts)
    found: Counter[str] = Counter()

    def outer(call: Call) -> torch.Tensor:
        with Operators() as seen:
            out = call.run(call.x)
        found.update(seen.found)
        return out

    given = backbone.inputs(2, text_tokens=16)
    with (
        torch.no_grad(),
        backbone.advise("block", outer, [3]),
        attach.stepping(backbone, method, state),
        backbone.at(Step(9, 20, 500.0)),
    ):
        backbone.transformer(**given)
    return found


@pytest.fixture(scope="module")
def dense() -> Counter[str]:
    return dispatched("dense", {})


@pytest.mark.parametrize(
    ("name", "facts", "settings", "most"),
    [
        ("diffcr", {"rescale": "none", "noise": 0.45}, {}, 6),
        ("uniform", {"rescale": "none", "noise": 0.45}, {}, 6),
        ("uniform", {"rescale": "none"}, {}, 5),
        ("uniform", {"rescale": "mlp", "score_scale": 1.0}, {}, 7),  # the pseudocode's: its score and its product
        ("random", {}, {}, 4),
        ("sensitivity", {}, {}, 6),
        ("tome", {}, {}, 24),
    ],
)
def test_few_operators_beside_those_of_a_dense_block(
    name: str, facts: dict[str, Any], settings: dict[str, Any], most: int, dense: Counter[str]
) -> None:
    own = dispatched(name, facts, ratio=0.3, **settings)
    extra = Counter(own)
    extra.subtract(dense)
    assert sum(own.values()) - sum(dense.values()) <= most, {op: n for op, n in extra.items() if n}
    assert own != dense
