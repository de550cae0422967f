"""AT-EDM: the page-rank, the schedule, recovery and cost against hand counts."""

import pytest
import torch
from test_methods import draw

from harness.attach import attached
from harness.errors import UserError
from harness.measure import flops
from harness.models import Model
from harness.tokens import kept_count
from harness.zoo.shapes import networks
from methods.at_edm import ATEDM, ATEDMSettings, grouped, page_rank, recovered, spared_share
from tests.measure.hand_formulas_pixart import block_macs

WIDTH, LAYERS, HEADS, TOKENS = 32, 3, 2, 256


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


def test_groups_and_the_share_that_pruning_blocks_spare() -> None:
    assert [list(one) for one in grouped(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    settings = ATEDMSettings(ratio=0.2, group=4, early=0.5)
    # 8 layers, 20 steps: 10 steps with 3 pruning blocks, 10 with 6; 0.2 * 160 = 32 blocks' worth
    assert spared_share(settings, 8, 20) == pytest.approx(32 / 90)
    with pytest.raises(UserError, match=r"cannot spare 0.6 .* 0.506 is the most"):
        spared_share(settings.model_copy(update={"ratio": 0.6}), 8, 20)


def test_a_pruned_token_gets_what_its_twin_got() -> None:
    start = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    start[:, 4] = 2 * start[:, 1]  # the same direction
    index = torch.tensor([[0, 1, 2]])
    out = start.clone()
    out[:, :3] += torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(1))
    update = recovered(start, out, index, "update")
    assert torch.allclose(update[:, 4] - start[:, 4], out[:, 1] - start[:, 1], atol=1e-6)
    assert torch.equal(recovered(start, out, index, "token")[:, 4], out[:, 1])
    assert torch.equal(update[:, :3], out[:, :3])


def test_blocks_get_the_tokens_that_the_schedule_says(model: Model) -> None:
    seen: list[int] = []
    handles = [
        block.attn1.to_out[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1]))
        for block in model.backbone.blocks
    ]
    settings = ATEDMSettings(ratio=0.2, group=2, early=0.5)  # groups [0, 1] and [2]: block 1 prunes at every step
    with attached(model.backbone, ATEDM(settings), None):
        draw(model)
    for handle in handles:
        handle.remove()
    assert seen == [256, kept_count(0.6, 256), 256] * 6


def test_cost_is_the_hand_count(model: Model) -> None:
    def gmacs(ratio: float) -> float:
        method = ATEDM(ATEDMSettings(ratio=ratio, group=3, early=0.0, iterations=4))

        def run() -> None:
            with attached(model.backbone, method, None):
                draw(model)

        return flops.count(model.backbone.transformer, run, images=1).gmacs

    spared = 0.3 * 3 / 2  # two of three blocks prune
    kept = kept_count(spared, TOKENS)
    whole, some = (block_macs(n, WIDTH, networks.TEXT_TOKENS).total for n in (TOKENS, kept))
    text = block_macs(0, WIDTH, networks.TEXT_TOKENS).total  # keys and values of the text do not shrink
    assert text > 0 and some > text
    ranking = 4 * HEADS * TOKENS * TOKENS
    likeness = (TOKENS - kept) * kept * WIDTH
    expected = 2 * (2 * (whole - some) - ranking - likeness) / 1e9  # both CFG halves
    assert gmacs(0.0) - gmacs(0.3) == pytest.approx(expected, rel=1e-6)
