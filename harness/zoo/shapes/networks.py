"""The parts of `shapes`: a real `PixArtSigmaPipeline`, small enough for two CPU cores."""

from __future__ import annotations

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from harness.zoo.shapes import scene

TEXT_TOKENS = 32
TEXT_WIDTH = 96
LATENT_CHANNELS = 6
LATENT_SIZE = 16


def tokenizer() -> PreTrainedTokenizerFast:
    """Word level, over the captions' vocabulary; a caption ends with </s>."""
    words = ["<pad>", "</s>", "<unk>", *scene.vocabulary()]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TEXT_TOKENS
    )


def text_encoder() -> T5EncoderModel:
    vocabulary = len(scene.vocabulary()) + 3
    return T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=TEXT_WIDTH,
            d_kv=24,
            d_ff=192,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=False,
        )
    )


def vae() -> AutoencoderKL:
    """64 x 64 pixels to 16 x 16 latents of six channels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=scene.SIZE,
        mid_block_add_attention=False,
    )


def transformer(width: int = 96, layers: int = 8, heads: int = 3) -> PixArtTransformer2DModel:
    return PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=layers,
        cross_attention_dim=width,
        caption_channels=TEXT_WIDTH,
        sample_size=LATENT_SIZE,
        patch_size=1,
        use_additional_conditions=False,
    )


def scheduler() -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (2M) on rectified flow."""
    return DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
    )
