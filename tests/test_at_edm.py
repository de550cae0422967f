"""AT-EDM: the page-rank, the schedule, the draw and cost against hand counts."""

import pytest
import torch
from pydantic import ValidationError
from test_methods import draw
from torch import Tensor

from harness.attach import attached
from harness.errors import UserError
from harness.measure import flops
from harness.models import Model
from harness.spec import Call, Step
from harness.tokens import kept_count, top_k
from harness.zoo.shapes import networks
from methods.at_edm import ATEDM, ATEDMSettings, page_rank, pruned_share, reranked, weighed
from tests.measure.hand_formulas_pixart import block_macs

WIDTH, LAYERS, HEADS, TOKENS = 32, 3, 2, 256


def kept_tokens(model: Model, settings: ATEDMSettings, batch: int = 1) -> dict[tuple[int, int], Tensor | None]:
    """(step, layer) -> which tokens go through the block, (2 B, K); None: all of them."""
    seen: dict[tuple[int, int], Tensor | None] = {}

    def spy(call: Call) -> Tensor:
        seen[call.step.index, call.layer] = call.index
        return call.run(call.x)

    with attached(model.backbone, ATEDM(settings), None), model.backbone.advise("block", spy):
        draw(model, batch=batch)
    return seen


def test_page_rank_of_a_star() -> None:
    """All attend to token 0, and it to everyone alike: its stationary share is 1/2 of the weight for a lazy walk."""
    share = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])[None, None]
    score = page_rank(share, 50)[0]
    assert score == pytest.approx(torch.tensor([2 / 3, 1 / 6, 1 / 6]), abs=1e-5)


def test_page_rank_of_uniform_attention_is_uniform_and_heads_are_combined_by_root_mean_square() -> None:
    flat = torch.full((1, 1, 5, 5), 0.2)
    assert torch.allclose(page_rank(flat, 3), torch.full((1, 5), 0.2))
    to_first = torch.zeros(1, 1, 5, 5)
    to_first[..., 0] = 1
    both = page_rank(torch.cat([flat, to_first], 1), 3)[0]
    assert both[0] == pytest.approx(((0.04 + 1) / 2) ** 0.5) and both[1] == pytest.approx((0.04 / 2) ** 0.5)


def test_importance_of_many_tokens_survives_half_precision() -> None:
    """With 4,096 of them the square of the mean importance is one bit above zero there."""
    logits = torch.randn(1, 2, 4096, generator=torch.Generator().manual_seed(0)) * 0.7
    maps = logits.softmax(-1)[:, :, None].expand(-1, -1, 64, -1).repeat_interleave(64, 2)
    exact, half = (page_rank(one, 1) for one in (maps, maps.half()))
    kept = [set(rank[0].topk(3277).indices.tolist()) for rank in (exact, half)]
    assert len(kept[0] & kept[1]) > 0.98 * 3277


def test_tokens_ranked_anew_share_the_importance_that_they_had() -> None:
    rank = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    new = reranked(rank, torch.tensor([[0, 2]]), torch.tensor([[1.0, 3.0]]))
    assert new == pytest.approx(torch.tensor([[0.15, 0.3, 0.45, 0.1]]))


def test_tokens_are_drawn_by_their_importance() -> None:
    """The first of a draw without replacement: softmax of the standardised logarithms over the temperature."""
    rank = torch.tensor([0.5, 0.3, 0.15, 0.05])
    log = rank.log()
    wanted = ((log - log.mean()) / log.std() / 1.5).softmax(0)
    exponential = torch.empty(40_000, 4).exponential_(generator=torch.Generator().manual_seed(0))
    noise = -exponential.log()
    first = weighed(rank.expand(40_000, 4), noise, 1.5).argmax(1)
    assert first.bincount(minlength=4) / 40_000 == pytest.approx(wanted, abs=0.01)
    assert torch.equal(weighed(rank[None], noise[:1], 0.0), rank[None])


def test_the_share_that_a_block_spares_makes_up_for_exempt_layers_and_steps() -> None:
    settings = ATEDMSettings(ratio=0.2, first_layers=3, last_layers=1, first_steps=0.25, early=0.5)
    # 8 layers, 20 steps: 4 layers prune; steps 5 to 9 half as much, 10 to 19 in full. 0.2 * 160 = 4 * (5 s / 2 + 10 s)
    assert pruned_share(settings, 8, Step(10, 20, 0.0)) == pytest.approx(32 / 50)
    assert pruned_share(settings, 8, Step(9, 20, 0.0)) == pytest.approx(16 / 50)
    with pytest.raises(UserError, match=r"at-edm cannot spare 0.6 .* 0.281 is the most"):
        pruned_share(settings.model_copy(update={"ratio": 0.6}), 8, Step(10, 20, 0.0))
    # of ten steps that run from 10 on, all prune in full: 0.2 * 80 = 4 * 10 s
    assert pruned_share(settings, 8, Step(10, 20, 0.0), start=10) == pytest.approx(0.4)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        ATEDMSettings(first_layers=0)  # no map would rank the first layer's tokens


def test_blocks_get_the_tokens_that_the_schedule_says(model: Model) -> None:
    kept = kept_tokens(model, ATEDMSettings(ratio=0.1, first_layers=2, last_steps=1 / 3, early=0.25))
    counts = {place: None if index is None else index.shape[1] for place, index in kept.items()}
    share = 0.1 * 18 / 3  # 6 steps, of which 4 prune layer 2, the first two half as much
    for step in range(6):
        some = None if step > 3 else kept_count(share / 2 if step < 2 else share, TOKENS)
        assert [counts[step, layer] for layer in range(LAYERS)] == [None, None, some]


def test_early_steps_prune_less_however_layers_are_grouped(model: Model) -> None:
    for group in (1, 64):
        settings = ATEDMSettings(ratio=0.2, group=group)
        with attached(model.backbone, ATEDM(settings), None):
            late = draw(model)
        with attached(model.backbone, ATEDM(settings.model_copy(update={"early": 0.3})), None):
            assert not torch.equal(draw(model), late)


def test_without_chance_the_exempt_layers_map_chooses_for_both_cfg_halves(model: Model) -> None:
    maps: list[Tensor] = []
    backbone = model.backbone
    attend = backbone.attend

    def watched(call: Call) -> tuple[Tensor, Tensor]:
        out, share = attend(call)
        maps.append(share)
        return out, share

    backbone.attend = watched  # type: ignore[method-assign]
    kept = kept_tokens(model, ATEDMSettings(ratio=0.2, temperature=0.0, iterations=2))
    assert len(maps) == 6  # one a step, in layer 0
    for step, share in enumerate(maps):
        scores = page_rank(share, 2).mean(0, keepdim=True)
        wanted = top_k(scores, kept_count(0.3, TOKENS)).expand(2, -1)
        assert all(torch.equal(kept[step, layer], wanted) for layer in (1, 2))  # type: ignore[arg-type]


def test_each_pruning_layer_ranks_what_it_sees_where_it_is_told_to(model: Model) -> None:
    seen: list[tuple[int, int]] = []
    backbone = model.backbone
    attend = backbone.attend

    def watched(call: Call) -> tuple[Tensor, Tensor]:
        seen.append((call.layer, call.x.shape[1]))
        return attend(call)

    backbone.attend = watched  # type: ignore[method-assign]
    one = kept_tokens(model, ATEDMSettings(ratio=0.2, group=1, temperature=0.0))
    assert seen == [(0, TOKENS), (1, kept_count(0.3, TOKENS))] * 6
    assert any(not torch.equal(one[step, 1], one[step, 2]) for step in range(6))  # type: ignore[arg-type]


def test_an_image_keeps_its_tokens_whatever_its_batch(model: Model) -> None:
    """Drawn afresh in each layer and step, but the same for the same image."""
    settings = ATEDMSettings(ratio=0.2, temperature=100.0)  # next to pure chance, so that rounding has no say
    alone, both = kept_tokens(model, settings), kept_tokens(model, settings, batch=2)
    for place, index in alone.items():
        if index is not None:
            assert (index[0] == both[place][0]).float().mean() > 0.9  # type: ignore[index]
            assert not torch.equal(both[place][0], both[place][1])  # type: ignore[index]
    assert not torch.equal(alone[0, 1], alone[0, 2]) and not torch.equal(alone[0, 1], alone[1, 1])  # type: ignore[arg-type]


def test_cost_is_the_hand_count(model: Model) -> None:
    def gmacs(ratio: float) -> float:
        method = ATEDM(ATEDMSettings(ratio=ratio, iterations=4))

        def run() -> None:
            with attached(model.backbone, method, None):
                draw(model)

        return flops.count(model.backbone.transformer, run, images=1).gmacs

    kept = kept_count(0.3 * 3 / 2, TOKENS)  # two of three blocks prune
    whole, some = (block_macs(n, WIDTH, networks.TEXT_TOKENS).total for n in (TOKENS, kept))
    text = block_macs(0, WIDTH, networks.TEXT_TOKENS).total  # keys and values of the text do not shrink
    assert text > 0 and some > text
    ranking = 4 * HEADS * TOKENS * TOKENS
    likeness = 2 * (TOKENS - kept) * kept * WIDTH
    expected = 2 * (2 * (whole - some) - ranking - likeness) / 1e9  # both CFG halves
    assert gmacs(0.0) - gmacs(0.3) == pytest.approx(expected, rel=1e-6)
