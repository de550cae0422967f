"""How each diffusers pipeline is given its prompts: what its `encode_prompt` gives becomes arguments of its call.

Letters: B prompts, L text tokens, D text width.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.errors import UserError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptSpec:
    """How a pipeline class is given its prompts.

    states: what `encode_prompt` gives, by the names of the call's arguments; "" is something that the call makes anew.
    batched_cfg: its batches hold both halves of classifier-free guidance, the unconditional one first, where guidance
        is above 1; otherwise the guidance scale goes into the denoiser as a number.
    fixed: further arguments of the call, whose defaults contradict given states.
    denoiser_kwargs: arguments of the denoiser by the states that they are, for fits; none where fits do not know the
        family.
    sizes: a fit also tells the denoiser that there are no image sizes.
    """

    states: tuple[str, ...]
    batched_cfg: bool = True
    fixed: Mapping[str, Any] = field(default_factory=dict)
    denoiser_kwargs: Mapping[str, str] = field(default_factory=dict)
    sizes: bool = False


_MASKED = ("prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask")
_TEXT = {"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"}
_PIXART = PromptSpec(_MASKED, fixed={"negative_prompt": None}, denoiser_kwargs=_TEXT, sizes=True)
_SPECS = {
    "PixArtAlphaPipeline": _PIXART,
    "PixArtSigmaPipeline": _PIXART,
    "LazyInpaintPipeline": _PIXART,
    "SanaPipeline": PromptSpec(_MASKED, fixed={"negative_prompt": None}, denoiser_kwargs=_TEXT),
    "StableDiffusion3Pipeline": PromptSpec(
        ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
        denoiser_kwargs={"encoder_hidden_states": "prompt_embeds", "pooled_projections": "pooled_prompt_embeds"},
    ),
    "FluxPipeline": PromptSpec(("prompt_embeds", "pooled_prompt_embeds", ""), batched_cfg=False),
}


_ENCODING = ("clean_caption", "max_sequence_length", "clip_skip")
"""Arguments of a pipeline's call that are about how prompts are encoded."""


def prompt_spec(pipeline: Any) -> PromptSpec:
    """How this pipeline, or the one that it derives from, is given its prompts. Raises UserError."""
    for kind in type(pipeline).__mro__:
        if kind.__name__ in _SPECS:
            return _SPECS[kind.__name__]
    raise _refused(type(pipeline).__name__)


def known(kind: str) -> None:
    """Raises UserError for the name of a pipeline class that nobody here knows; "" is unknown yet, and passes."""
    if kind and kind not in _SPECS:
        raise _refused(kind)


def _refused(kind: str) -> UserError:
    hint = "; it is conditioned on classes: use --task class-conditional" if kind == "DiTPipeline" else ""
    return UserError(
        f"{kind} is no text-to-image pipeline that this harness can prompt; known: {', '.join(sorted(_SPECS))}{hint}"
    )


def encode(
    pipeline: Any, prompts: list[str], call: Mapping[str, Any], guided: bool, negative: str = ""
) -> dict[str, Tensor]:
    """Prompt states as arguments of the pipeline's call, each (B, ...): embeddings (B, L, D), masks (B, L), pooled
    embeddings (B, D), and, if guided, those of the negative prompt. call: the call's other arguments, some of which are
    about prompts. Raises UserError for a pipeline that nobody here knows, for guidance in two passes per step, and for
    a negative prompt where the pipeline has no use for one.
    """
    spec = prompt_spec(pipeline)
    if not spec.batched_cfg and float(call.get("true_cfg_scale", 1.0)) > 1:
        raise UserError(
            f"{type(pipeline).__name__} with true_cfg_scale needs a negative prompt, and this harness gives it none; "
            "leave true_cfg_scale out"
        )
    known, of_call = inspect.signature(pipeline.encode_prompt).parameters, _call_parameters(pipeline)
    options = {  # the call's defaults, which are not always encode_prompt's
        name: call.get(name, of_call[name].default) for name in _ENCODING if name in known and name in of_call
    }
    if negative and "negative_prompt" not in known:
        raise UserError(
            f"{type(pipeline).__name__} takes no negative prompt; leave negative_prompt out of harness.json"
        )
    options |= {"negative_prompt": negative} if negative else {}
    instruction = "complex_human_instruction"  # encode_prompt leaves it out unless given, and the call gives it
    if instruction in known:
        options[instruction] = call.get(instruction, of_call[instruction].default)
    if "do_classifier_free_guidance" in known:
        options["do_classifier_free_guidance"] = guided
    options |= {name: None for name in ("prompt_2", "prompt_3") if name in known}
    with _without_notices():
        found = pipeline.encode_prompt(prompts, device=pipeline.device, **options)
    return {name: x for name, x in zip(spec.states, found, strict=True) if name and x is not None}


def text_tokens(pipeline: Any, call: Mapping[str, Any]) -> int:
    """How many text tokens the denoiser gets, padding included; 0 for a pipeline without text. Stable Diffusion 3 puts
    CLIP's before T5's."""
    parameter = _call_parameters(pipeline).get("max_sequence_length")
    if parameter is None:
        return 0
    clip = pipeline.tokenizer_max_length if hasattr(pipeline, "tokenizer_3") else 0
    return int(call.get("max_sequence_length", parameter.default)) + int(clip)


def _call_parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(pipeline).__call__).parameters


@contextmanager
def _without_notices() -> Iterator[None]:
    """diffusers and transformers tell of each prompt that is too long, each time, and quote it."""
    logs = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def warn_of_long(pipeline: Any, prompts: Sequence[str], call: Mapping[str, Any]) -> None:
    """One warning for all prompts that the longest-sighted text encoder, the last one, does not read to the end."""
    tokenizer: Any = next(
        (one for name in ("tokenizer_3", "tokenizer_2", "tokenizer") if (one := getattr(pipeline, name, None))), None
    )
    default = inspect.signature(pipeline.encode_prompt).parameters.get("max_sequence_length")
    own = getattr(tokenizer, "model_max_length", None)
    most = call.get("max_sequence_length", default.default if default else own)
    if getattr(pipeline, "tokenizer_3", tokenizer) is None:  # left out, so that CLIP's length is all that is read
        most = own
    if tokenizer is None or not isinstance(most, int):
        return
    counts = [len(ids) for ids in tokenizer(list(prompts), truncation=False, verbose=False).input_ids]
    if long := [prompt for prompt, count in zip(prompts, counts, strict=True) if count > most]:
        _LOG.warning(
            "%d of %d prompts are longer than the %d tokens that the text encoder reads; the rest is cut off (the "
            "first of them begins with %r)", len(long), len(prompts), most, long[0][:40],
        )  # fmt: skip


def warn_of_unknown(pipeline: Any, prompts: Sequence[str]) -> None:
    """One warning that names the words which a word-level tokenizer does not know; they are read as one and the same
    unknown word."""
    tokenizer: Any = getattr(pipeline, "tokenizer", None)
    number = getattr(tokenizer, "unk_token_id", None)
    if number is None or not getattr(tokenizer, "is_fast", False):
        return
    found = tokenizer(list(prompts), truncation=False, padding=False, return_offsets_mapping=True, verbose=False)
    words: dict[str, None] = {}
    hit = 0
    for prompt, ids, places in zip(prompts, found["input_ids"], found["offset_mapping"], strict=True):
        new = [prompt[start:end] for one, (start, end) in zip(ids, places, strict=True) if one == number]
        hit += bool(new)
        words |= dict.fromkeys(new)
    if words:
        more = f" and {len(words) - 5} more" if len(words) > 5 else ""
        _LOG.warning(
            "%d of %d prompts hold words that the text encoder does not know (%s%s); it reads them all as one unknown "
            "word", hit, len(prompts), ", ".join(list(words)[:5]), more,
        )  # fmt: skip


@torch.no_grad()
def sample(
    pipeline: Any,
    states: Mapping[str, Tensor],
    call: Mapping[str, Any],
    *,
    steps: int,
    guidance: float,
    seeds: Sequence[int],
    output: str = "pt",
) -> Tensor:
    """Images (B, 3, H, W) in 0..1 for prompt states that `encode` gave; with output "latent", what the denoiser ends
    with. seeds: one for each."""
    images: Tensor = pipeline(
        **states,
        **prompt_spec(pipeline).fixed,
        num_inference_steps=steps,
        guidance_scale=guidance,
        # seeds on the CPU: the same noise on every device
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type=output,
        **call,
    ).images
    return images


def guided(pipeline: Any, guidance: float) -> bool:
    """Whether the denoiser's batches hold both halves of classifier-free guidance."""
    return prompt_spec(pipeline).batched_cfg and guidance > 1


def refusal(pipeline: Any) -> str:
    """Why fits cannot train this pipeline's denoiser; "" where they can."""
    kind = type(pipeline).__name__
    specs = [_SPECS[base.__name__] for base in type(pipeline).__mro__ if base.__name__ in _SPECS]
    if not any(spec.denoiser_kwargs for spec in specs):
        known = sorted(name for name, spec in _SPECS.items() if spec.denoiser_kwargs)
        return f"fits do not know how {kind} conditions its denoiser; they know {', '.join(known)}"
    if getattr(pipeline.transformer, "use_additional_conditions", False):
        return f"fits do not know the image sizes that this {kind} conditions its denoiser on"
    return ""
