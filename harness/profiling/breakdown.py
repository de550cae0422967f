"""How a step's cost divides among the parts of the blocks and the method itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from torch import Tensor

from harness.backbones.base import Backbone
from harness.spec import Advice, Call, Part

SHARES: dict[Part, str] = {"self_attention": "attention", "cross_attention": "cross_attention", "mlp": "mlp"}
METHOD, REST = "routing", "rest"
NAMES = (*SHARES.values(), METHOD, REST)


def attribute_cost(
    backbone: Backbone,
    on: AbstractContextManager[object],
    read: Callable[[], float],
    run: Callable[[], object],
) -> dict[str, float]:
    """What `run()` adds to a meter, by part. on: puts the method on. read: the meter.

    Idle advice inside and outside of the method's own tells the original parts from what the method does around them
    (`routing`: scores, gathering, merging); `rest` is everything else: norms and modulation inside the blocks, and what
    lies outside of them. A part that the family does not set apart is in `rest`.
    """
    places: dict[Part, list[int]] = {}
    for layer in range(backbone.layers):
        for part in sorted(backbone.parts_of(layer)):
            places.setdefault(part, []).append(layer)
    inner: dict[Part, float] = dict.fromkeys(places, 0.0)
    outer: dict[Part, float] = dict.fromkeys(places, 0.0)

    def metered(sums: dict[Part, float], part: Part) -> Advice:
        def advice(call: Call) -> Tensor:
            before = read()
            out = call.run(call.x)
            sums[part] += read() - before
            return out

        return advice

    @contextmanager
    def around(sums: dict[Part, float]) -> Iterator[None]:
        attend = backbone.attend

        def measured(call: Call) -> tuple[Tensor, Tensor]:  # what a method runs in place of `call.run`
            before = read()
            found = attend(call)
            sums[call.part] += read() - before
            return found

        with ExitStack() as stack:
            if sums is inner:
                stack.callback(vars(backbone).pop, "attend", None)
                vars(backbone)["attend"] = measured
            for part, layers in places.items():
                stack.enter_context(backbone.advise(part, metered(sums, part), layers))
            yield

    with around(outer), on, around(inner):
        before = read()
        run()
        total = read() - before
    shares = {name: inner.get(part, 0.0) for part, name in SHARES.items()}
    shares[METHOD] = sum(outer.values()) - sum(inner.values())
    return shares | {REST: total - sum(shares.values())}
