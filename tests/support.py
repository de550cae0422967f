"""What several test files build."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtSigmaPipeline
from torch._dynamo.testing import CompileCounter

from harness import cli
from harness.attach import attached
from harness.backbones.base import Backbone
from harness.backbones.following import track_sampler
from harness.compose import method_class
from harness.executors.execute import Listener
from harness.method import Method
from harness.spec import State
from harness.zoo.shapes import networks

CALL = {
    "height": 64,
    "width": 64,
    "clean_caption": False,
    "use_resolution_binning": False,
    "max_sequence_length": networks.TEXT_TOKENS,
}


def save_tiny(folder: Path) -> None:
    """A pipeline folder like the zoo's, untrained and much smaller: 3 layers, width 32."""
    torch.manual_seed(0)
    transformer = networks.transformer(width=32, layers=3, heads=2)
    # Fresh gates are near zero; larger ones make blocks matter, so that a change in one shows in the image.
    for block in transformer.transformer_blocks:
        torch.nn.init.normal_(block.scale_shift_table, std=1.0)
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.2)
    PixArtSigmaPipeline(
        tokenizer=networks.tokenizer(),
        text_encoder=networks.text_encoder(),
        vae=networks.vae(),
        transformer=transformer,
        scheduler=networks.scheduler(),
    ).save_pretrained(folder)
    notes = {"scenes": "shapes", "judge": "shapes-judge", "defaults": {"steps": 4, "guidance": 2.0}, "call": CALL}
    (folder / "harness.json").write_text(json.dumps(notes))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process, as from a shell; the exit code."""
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def state_for(method: Method, backbone: Backbone) -> State | None:
    """An adapter state without a fit: random routers, every ratio as asked for."""
    if not method.needs_state:
        return None
    generator = torch.Generator().manual_seed(1)
    ratio = method.ratio or 0.0
    tensors = {
        "router": torch.randn(backbone.layers, backbone.width, generator=generator),
        "ratios": torch.full((backbone.layers, 2), ratio),
        "importance": torch.rand(backbone.layers, 16, 16, generator=generator),
        "order": torch.arange(backbone.layers),
        "heads": torch.rand(backbone.layers, 2, generator=generator),
        "channels": torch.rand(backbone.layers, 4 * backbone.width, generator=generator),
        "gates": torch.rand(6, backbone.layers, 3, generator=generator),
        "mag_ratios": torch.ones(6),
        **_idle_lora(backbone),
    }
    return State(tensors, {"rescale": "mlp", "score_scale": 2.0, "steps": 4})


def build(name: str, ratio: float) -> Method:
    """A method at a ratio; one whose strength is no ratio at its default, or at its lowest value for a ratio of 0."""
    cls = method_class(name)
    fields = cls.Settings.model_fields
    if "ratio" in fields:
        return cls(cls.Settings.model_validate({"ratio": ratio}))
    if ratio or not cls.strength:
        return cls()
    low = next(one.ge for one in fields[cls.strength].metadata if hasattr(one, "ge"))
    return cls(cls.Settings.model_validate({cls.strength: low}))


def forward_once(backbone: Backbone, batch: int = 2) -> torch.Tensor:
    """The output of the tiny model on one batch, always the same."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 6, 16, 16, generator=generator)
    states = torch.randn(batch, 4, 96, generator=generator)
    out: torch.Tensor = backbone.transformer(
        x, encoder_hidden_states=states, timestep=torch.full((batch,), 900.0), added_cond_kwargs={}
    )[0]
    return out


def _idle_lora(backbone: Backbone) -> dict[str, torch.Tensor]:
    """LoRA that changes nothing, on the first linear layer that the family adapts."""
    name = backbone.linear_names()[0]
    linear = backbone.blocks[0].get_submodule(name)
    place = next(where for where, module in backbone.transformer.named_modules() if module is linear)
    return {
        f"lora.{place}.A": torch.zeros(2, linear.in_features),
        f"lora.{place}.B": torch.zeros(linear.out_features, 2),
    }


class Counts(Listener):
    """What is left of the bar, and what was said."""

    def __init__(self) -> None:
        self.work, self.outcomes, self.said = 0, [], []

    def progress(self, what: str, work: int) -> None:
        self.work += work

    def finished(self, record: Any) -> None:
        self.outcomes.append(record.outcome)

    def say(self, line: str) -> None:
        self.said.append(line)


def compiled_as_eager(model: Any, method: Method, state: State) -> int:
    """How many graphs a sampler's whole run compiles to with the method on. Asserts that it makes the eager latents."""

    def draw() -> Any:
        generator = torch.Generator().manual_seed(0)
        return model.pipeline(
            "star", num_inference_steps=12, generator=generator, output_type="latent", **model.call
        ).images

    counter = CompileCounter()
    with track_sampler(model.backbone, model.pipeline), attached(model.backbone, method, state), torch.no_grad():
        eager = draw()
        torch._dynamo.reset()
        model.pipeline.transformer.compile(backend=counter)
        compiled = draw()
    torch._dynamo.reset()
    assert torch.equal(compiled, eager)
    return int(counter.frame_count)
