"""The parts of `emoji`: a real `PixArtSigmaPipeline`, small enough for two CPU cores."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import AutoencoderKL, PixArtTransformer2DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from harness.zoo.emoji.pictures import SIZE
from harness.zoo.shapes.networks import scheduler

__all__ = ["scheduler", "text_encoder", "tokenizer", "transformer", "vae"]

TEXT_TOKENS = 16
LATENT_CHANNELS = 8
LATENT_SIZE = 16
_HEAD = 32


def tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Word level, over the words of the captions; a caption ends with </s>."""
    known = ["<pad>", "</s>", "<unk>", *words]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TEXT_TOKENS
    )


def text_encoder(words: int, width: int) -> T5EncoderModel:
    """words: how many the tokenizer knows."""
    return T5EncoderModel(
        T5Config(
            vocab_size=words, d_model=width, d_kv=_HEAD, d_ff=2 * width, num_layers=2, num_heads=width // _HEAD,
            dropout_rate=0.0, feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip


def vae(width: int) -> AutoencoderKL:
    """64 x 64 pixels to 16 x 16 latents of eight channels. width: channels of its first level."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(width, 2 * width, 4 * width),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def transformer(width: int, layers: int) -> PixArtTransformer2DModel:
    return PixArtTransformer2DModel(
        num_attention_heads=width // _HEAD,
        attention_head_dim=_HEAD,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=layers,
        cross_attention_dim=width,
        caption_channels=width,
        sample_size=LATENT_SIZE,
        patch_size=1,
        use_additional_conditions=False,
    )
