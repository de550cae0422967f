"""Known answers of the rivals that need no attention maps and no diffusers: merging in full, depth, width, learned
caching, fewer steps, precision."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from test_methods import draw
from torch import Tensor

from harness import checkpoints
from harness.attach import attached
from harness.backbones.following import track_sampler
from harness.backbones.pixart import PixArt
from harness.errors import UserError
from harness.fitting.data import data_for
from harness.fitting.fit import fit
from harness.fitting.objective import Objective
from harness.fitting.options import FitOptions
from harness.measure import flops
from harness.method import Method
from harness.models import Model
from harness.spec import Call, Grid, State, Step
from harness.zoo.shapes import networks
from methods.depth import Depth, dropped_count
from methods.fewer_steps import FewerSteps
from methods.l2c import L2C, reused
from methods.precision import Precision
from methods.tome import ToMe, ToMeSettings
from methods.width import Importance, Width, WidthFT
from tests.measure.hand_formulas_pixart import block_macs

WIDTH, LAYERS, HEADS, TOKENS = 32, 3, 2, 256


def gmacs(model: Model, method: Method, state: State | None = None, steps: int | None = None) -> float:
    def run() -> None:
        with track_sampler(model.backbone, model.pipeline), attached(model.backbone, method, state):
            model.pipeline(
                "a small blue star", num_inference_steps=4, guidance_scale=2.0, output_type="latent",
                generator=torch.Generator().manual_seed(0), **model.call,
            )  # fmt: skip

    return flops.count(model.backbone.transformer, run, images=1, steps=steps).gmacs


def calls(model: Model, method: Method, state: State | None, name: str = "attn1.to_q") -> list[tuple[int, int]]:
    """(layer, tokens) of every call of a linear layer in one generation."""
    seen: list[tuple[int, int]] = []
    handles = [
        block.get_submodule(name).register_forward_pre_hook(
            lambda _m, args, layer=layer: seen.append((layer, args[0].shape[1]))
        )
        for layer, block in enumerate(model.backbone.blocks)
    ]
    with track_sampler(model.backbone, model.pipeline), attached(model.backbone, method, state):
        model.pipeline("a small blue star", num_inference_steps=4, output_type="latent", **model.call)
    for handle in handles:
        handle.remove()
    return seen


def fitted(model: Model, method: Method, out: Path, distill: float = 1.0, **own: object) -> State:
    options = FitOptions.model_validate({"steps": 8, "batch": 2, "scenes": 64, "lora_rank": 2, "distill": distill})
    chosen = method.FitSettings.model_validate(own)
    trains = method.fitting(model.backbone, 4, chosen).trains
    data = data_for(model, options, trains=trains, folder=None, work=out)
    (path,) = fit([method], model, options, data, out, out / "work", own=chosen, accelerator=Accelerator(cpu=True))
    tensors, facts = checkpoints.load(path)
    return State(tensors, facts)


# -- merging in full ---------------------------------------------------------------------------------------------


def test_tome_spares_the_layers_and_steps_that_it_must(model: Model) -> None:
    method = ToMe(ToMeSettings(ratio=0.5, first_layers=1, last_layers=1, first_steps=0.25, last_steps=0.5))
    seen = calls(model, method, None)
    expected = [[(0, 256), (1, 128 if step == 1 else 256), (2, 256)] for step in range(4)]
    assert seen == [call for step in expected for call in step]
    assert method.effective_ratio(None) is None and ToMe(ToMeSettings(ratio=0.5)).effective_ratio(None) == 0.5


def test_tome_merges_up_to_one_token_per_window(model: Model) -> None:
    seen = calls(model, ToMe(ToMeSettings(ratio=0.9, stride=4)), None)
    assert {tokens for _, tokens in seen} == {256 - int(0.9 * 256)}
    with pytest.raises(ValidationError, match="a stride of 2 merges at most 0.75"):
        ToMeSettings(ratio=0.8)
    with pytest.raises(ValidationError, match="proportional attention needs merging around"):
        ToMeSettings(proportional=True, around="mlp")


@pytest.mark.parametrize("around", ["block", "self_attention"])
def test_proportional_attention_on_equal_tokens_is_dense_attention(backbone: PixArt, around: str) -> None:
    """Where all tokens of the image are equal, merging loses nothing if keys are weighed."""
    attention = backbone.module(0, "self_attention")
    x = torch.randn(1, 1, WIDTH).expand(1, TOKENS, WIDTH).contiguous()
    other = torch.randn(1, TOKENS, WIDTH)
    mixed = torch.cat([x[:, :200], other[:, :56]], 1)  # 200 equal tokens, 56 others: plain merging changes the weights
    method = ToMe(ToMeSettings(ratio=0.25, around="self_attention", random=False, proportional=True))
    plain = ToMe(ToMeSettings(ratio=0.25, around="self_attention", random=False))
    with torch.no_grad(), backbone.at(Step(0, 4, 500.0)):
        dense = attention(mixed)
        results = []
        for one in (method, plain):
            with one.attach(backbone):
                backbone._grid = Grid(16, 16)
                results.append(attention(mixed))
    assert torch.allclose(results[0], dense, atol=1e-5)
    assert not torch.allclose(results[1], dense, atol=1e-3)


# -- depth -------------------------------------------------------------------------------------------------------


def test_depth_drops_whole_blocks(model: Model) -> None:
    state = State({"order": torch.tensor([1, 0, 2])})
    method = Depth(Depth.Settings(ratio=0.3))
    assert calls(model, method, state) == [(layer, 256) for _ in range(4) for layer in (0, 2)]
    assert method.effective_ratio(state) == pytest.approx(1 / 3)
    block = 2 * block_macs(TOKENS, WIDTH, networks.TEXT_TOKENS).total / 1e9
    assert gmacs(model, Depth(Depth.Settings(ratio=0.0))) - gmacs(model, method, state) == pytest.approx(block)


@pytest.mark.parametrize(("ratio", "layers", "dropped"), [(0.0, 8, 0), (0.05, 8, 1), (0.3, 8, 2), (0.9, 3, 2)])
def test_dropped_count(ratio: float, layers: int, dropped: int) -> None:
    assert dropped_count(ratio, layers) == dropped


def test_depth_finds_the_block_that_does_nothing(model: Model, tmp_path: Path) -> None:
    with torch.no_grad():  # gates of zero on attention and MLP, and no cross-attention: the block is the identity
        idle = model.backbone.blocks[1]
        idle.scale_shift_table[[2, 5]] = 0
        idle.attn2.to_out[0].weight.zero_()
        idle.attn2.to_out[0].bias.zero_()

    def silent(call: Call) -> Tensor:  # the timestep's part of the gates
        return call.run(call.x) if call.layer != 1 else call.x

    with model.backbone.advise("block", silent):
        state = fitted(model, Depth(Depth.Settings(ratio=0.3)), tmp_path)
    assert state.tensors["order"][0] == 1 and sorted(state.tensors["order"].tolist()) == [0, 1, 2]


# -- width -------------------------------------------------------------------------------------------------------


def width_state() -> State:
    generator = torch.Generator().manual_seed(0)
    heads, channels = torch.rand(LAYERS, HEADS, generator=generator), torch.rand(LAYERS, 4 * WIDTH, generator=generator)
    return State({"heads": heads, "channels": channels})


def test_width_drops_the_nearest_number_and_keeps_one() -> None:
    scores = Importance(torch.tensor([[4.0, 1.0, 3.0, 2.0]]), torch.arange(10.0)[None])
    for ratio, heads, channels in [(0.1, 4, 9), (0.2, 3, 8), (0.3, 3, 7), (0.5, 2, 5), (0.9, 1, 1)]:
        kept = scores.kept(ratio)
        assert (len(kept[0][0]), len(kept[1][0])) == (heads, channels)
    assert scores.kept(0.2)[0][0].tolist() == [0, 2, 3]


def test_width_takes_heads_and_channels_out(model: Model) -> None:
    method, state = Width(Width.Settings(ratio=0.5)), width_state()
    attention, mlp = 2 * TOKENS * TOKENS * WIDTH + 4 * TOKENS * WIDTH**2, 8 * TOKENS * WIDTH**2
    spared = 2 * LAYERS * (attention + mlp) / 2 / 1e9  # half of both, for both CFG halves
    assert gmacs(model, Width(Width.Settings(ratio=0.0))) - gmacs(model, method, state) == pytest.approx(spared)
    assert method.effective_ratio(state) == 0.5


def test_narrow_weights_give_what_masks_give(model: Model) -> None:
    """Slicing is what a slow reference does that multiplies by 0, to rounding."""
    method, state = Width(Width.Settings(ratio=0.5)), width_state()
    masks = Importance(state.tensors["heads"], state.tensors["channels"]).masks(0.5)
    with model.backbone.masked_width(*masks):
        slow = draw(model)
    with attached(model.backbone, method, state):
        fast = draw(model)
    assert torch.allclose(slow, fast, atol=1e-4)


def test_width_finds_what_does_nothing(model: Model, tmp_path: Path) -> None:
    with torch.no_grad():  # channel 5 leads nowhere
        model.backbone.blocks[1].ff.net[2].weight[:, 5] = 0
    state = fitted(model, Width(Width.Settings(ratio=0.3)), tmp_path)
    assert state.tensors["channels"].shape == (LAYERS, 4 * WIDTH) and state.tensors["heads"].shape == (LAYERS, HEADS)
    assert state.tensors["channels"][1].argmin() == 5 and state.tensors["channels"][1, 5] == 0


def test_width_with_fine_tuning_leaves_lora_beside_its_masks(model: Model, tmp_path: Path) -> None:
    state = fitted(model, WidthFT(WidthFT.Settings(ratio=0.5)), tmp_path)
    assert {"heads", "channels"} < set(state.tensors)
    ups = [value for name, value in state.tensors.items() if name.endswith(".B")]
    assert ups and any(up.abs().max() > 0 for up in ups)


# -- learned layer caching ---------------------------------------------------------------------------------------


def test_l2c_reuses_the_lowest_gates_of_odd_steps() -> None:
    gates = torch.arange(24.0).view(4, 2, 3)
    table = reused(gates, 0.25)
    assert table.sum() == 6 and table[1].all() and not table[[0, 2, 3]].any()
    assert reused(gates, 0.5)[1::2].all() and not reused(gates, 0.0).any()


def test_l2c_runs_what_its_table_says(model: Model) -> None:
    gates = torch.ones(4, LAYERS, 3)
    gates[1, 0, 0] = gates[3, 2, 0] = 0  # self-attention of layer 0 at step 1, of layer 2 at step 3
    method = L2C(L2C.Settings(ratio=2 / 36))
    seen = calls(model, method, State({"gates": gates}))
    assert [layer for layer, _ in seen] == [0, 1, 2, 1, 2, 0, 1, 2, 0, 1]
    with pytest.raises(ValueError, match="trained for 6 sampling steps, not for 4"):
        calls(model, method, State({"gates": torch.ones(6, LAYERS, 3)}))


def test_l2c_learns_gates_and_leaves_the_model_alone(model: Model, tmp_path: Path) -> None:
    """From a neutral start. Gates close where reusing changes nothing."""
    idle = model.backbone.blocks[1].attn2.to_out[0]
    with torch.no_grad():
        idle.weight.zero_()
        idle.bias.zero_()
    state = fitted(model, L2C(L2C.Settings(ratio=0.2)), tmp_path)
    gates = state.tensors["gates"]
    assert set(state.tensors) == {"gates"} and gates.shape == (4, LAYERS, 3)
    assert (gates[::2] == 0.5).all()  # even steps have nothing to learn
    taught = gates[1::2][(gates[1::2] != 0.5).flatten(1).any(1)]  # (steps that were drawn, layers, parts)
    with pytest.raises(UserError, match="l2c learns from the dense model's prediction alone"):
        fitted(model, L2C(L2C.Settings(ratio=0.2)), tmp_path / "more", distill=0.0)
    assert len(taught) and (taught[:, 1, 1] < 0.49).all()
    assert (taught.flatten(1).amax(1) > 0.5).all()  # while parts whose reuse shows open


def test_l2c_teaches_each_step_at_its_own_timesteps(model: Model) -> None:
    """A batch's timesteps lie next to one sampling step, and that step's gates alone get a gradient."""
    fitting = L2C(L2C.Settings(ratio=0.2)).fitting(model.backbone, 6)
    objective = Objective(model.pipeline.scheduler, 6)
    generator = torch.Generator().manual_seed(0)
    odd = [step for step in range(6) if fitting.teaches(step)]  # at even ones no gate is met
    assert odd == [1, 3, 5] and not fitting.diffusion
    for _ in range(20):
        timesteps, index = objective.draw(16, fitting.regions, generator, odd)
        assert index in odd
        assert (objective.lower[index] <= timesteps).all() and (timesteps <= objective.upper[index]).all()
    x = torch.randn(1, 6, 16, 16, generator=generator)
    inputs = {
        "encoder_hidden_states": torch.randn(1, 8, 96, generator=generator), "timestep": torch.full((1,), 500),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}, "return_dict": False,
    }  # fmt: skip
    assert fitting.previous(3) and not fitting.previous(2)
    with fitting.attach():
        for index, changed in ((2, x), (3, x + 1)):
            with model.backbone.at(Step(index, 6, 500.0)):
                out = model.backbone.transformer(changed, **inputs)[0]
        (out.square().mean() + sum(fitting.losses().values())).backward()
    (logits,) = fitting.module.parameters()
    assert logits.grad is not None
    assert logits.grad[3].abs().min() > 0 and logits.grad[[0, 1, 2, 4, 5]].abs().max() == 0


# -- steps and precision -----------------------------------------------------------------------------------------


def test_fewer_steps_visits_fewer_timesteps(model: Model) -> None:
    method = FewerSteps(FewerSteps.Settings(spared=0.5))
    assert len(calls(model, method, None)) == 2 * LAYERS
    whole, half = gmacs(model, FewerSteps(FewerSteps.Settings(spared=0.0)), steps=4), gmacs(model, method, steps=4)
    assert half == pytest.approx(whole / 2)
    with track_sampler(model.backbone, model.pipeline), attached(model.backbone, method, None):
        made = model.pipeline(
            "a small blue star", num_inference_steps=4, output_type="latent",
            generator=torch.Generator().manual_seed(0), **model.call,
        ).images  # fmt: skip
    asked = model.pipeline(
        "a small blue star", num_inference_steps=2, output_type="latent",
        generator=torch.Generator().manual_seed(0), **model.call,
    ).images  # fmt: skip
    assert torch.equal(made, asked)


def test_precision_is_that_of_the_denoiser_alone(model: Model) -> None:
    kinds: list[torch.dtype] = []
    handle = model.backbone.blocks[0].attn1.to_q.register_forward_pre_hook(lambda _m, args: kinds.append(args[0].dtype))
    dense = draw(model)
    with attached(model.backbone, Precision(), None):
        images = draw(model)
    handle.remove()
    assert kinds == [torch.float32] * 6 + [torch.bfloat16] * 6
    assert images.dtype == torch.float32 and not torch.equal(images, dense)
    assert torch.equal(draw(model), dense)
    assert next(model.backbone.transformer.parameters()).dtype == torch.float32


def test_half_precision_leaves_the_timestep_as_it_is(model: Model) -> None:
    """bfloat16 knows 812 and 816; diffusers embeds in single precision."""
    seen: list[Tensor] = []
    embed = model.backbone.transformer.adaln_single.emb.time_proj  # type: ignore[union-attr]
    handle = embed.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))  # type: ignore[union-attr,operator]
    with attached(model.backbone, Precision(), None), torch.no_grad():
        model.backbone.transformer(**model.backbone.inputs(2) | {"timestep": torch.full((2,), 813.8)})
    handle.remove()
    assert torch.equal(seen[0], torch.full((2,), 813.8))
