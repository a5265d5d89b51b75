"""Random models of the real classes, built in code in tenths of a second, and the Hub repositories they would live in.

Every builder is seeded: two calls give equal weights. Sizes are the smallest at which nothing degenerates: sliding and
full attention, grouped key-value heads, a pooled vision grid, space and time compression of 8 and 4.
"""

import json
from pathlib import Path
from string import ascii_letters, digits, punctuation
from typing import Literal

import torch
from diffusers import (
    AutoencoderKLWan,
    CosmosTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    VJEPA2Config,
    VJEPA2Model,
)

from theworld.constants import END_OF_TURN
from theworld.nano.tokenizer import BOI_TOKEN, EOI_TOKEN, IMAGE_TOKEN, build_processor, build_tokenizer

IMAGE_SIZE = 16  # pixels, SigLIP's view
IMAGE_TOKENS = 4  # per image, after Gemma's pooling of the 4 x 4 patch grid
WORLD_SIZE = 32  # pixels, the VAE's view: a 4 x 4 latent grid
LATENT_CHANNELS = 16
TEXT_WIDTH = 16  # of the prompt embedding that the diffusion transformer attends to
QWEN_WIDTH = 40  # of the embedding that Cosmos-Predict2.5 projects to `TEXT_WIDTH`

TEXTS = (
    "What colour is the ball?",
    "Which bin will the ball land in?",
    "The ball will land in the red bin.",
    "Yes, the tower falls to the left.",
)


def tiny_tokenizer() -> GemmaTokenizer:
    """A Gemma tokenizer of about 400 tokens, among them `<unused0>` to `<unused7>`."""
    return build_tokenizer(TEXTS, vocab_size=420)


def tiny_processor() -> Gemma3Processor:
    return build_processor(tiny_tokenizer(), image_size=IMAGE_SIZE, image_seq_length=IMAGE_TOKENS)


def tiny_gemma_config() -> Gemma3Config:
    tokenizer = tiny_tokenizer()
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.convert_tokens_to_ids(END_OF_TURN),
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "sliding_window": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "max_position_embeddings": 2048,
        "initializer_range": 0.2,  # large enough that every input moves the logits, also in bf16
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": 4,
        "vision_use_head": False,
    }
    return Gemma3Config(
        text_config=text | special,
        vision_config=vision,
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=tokenizer.convert_tokens_to_ids(BOI_TOKEN),
        eoi_token_index=tokenizer.convert_tokens_to_ids(EOI_TOKEN),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        initializer_range=0.2,
        **special,
    )


def tiny_gemma(
    dtype: torch.dtype = torch.float32, attn: Literal["eager", "sdpa"] = "sdpa", seed: int = 0
) -> Gemma3ForConditionalGeneration:
    """Gemma 3 with about 42,000 parameters, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Gemma3ForConditionalGeneration._from_config(tiny_gemma_config(), attn_implementation=attn)
        # Zero at initialisation in the stock class: images would not reach the language model.
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.25)
        # Small against what the layers add; with tied embeddings each token would only repeat itself.
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.05)
    return model.to(dtype).eval()


def tiny_vae(latent_channels: int = LATENT_CHANNELS, seed: int = 0) -> AutoencoderKLWan:
    """A Wan VAE with latent statistics of its own, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(
            base_dim=4,
            z_dim=latent_channels,
            dim_mult=[1, 1, 2, 2],
            num_res_blocks=1,
            latents_mean=torch.linspace(-0.3, 0.3, latent_channels).tolist(),
            latents_std=torch.linspace(0.2, 0.6, latent_channels).tolist(),
        )
    return vae.eval()


def tiny_transformer(
    latent_channels: int = LATENT_CHANNELS, concat_padding_mask: bool = False, seed: int = 0, *, v25: bool = False
) -> CosmosTransformer3DModel:
    """A Cosmos-Predict2 diffusion transformer of two layers, in evaluation mode; with `v25` that of Cosmos-Predict2.5.

    `concat_padding_mask` is True in NVIDIA's checkpoints; diffusers resizes that mask with torchvision.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = CosmosTransformer3DModel(
            in_channels=latent_channels + 1,  # the condition mask
            out_channels=latent_channels,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            mlp_ratio=2.0,
            text_embed_dim=TEXT_WIDTH,
            adaln_lora_dim=8,
            max_size=(32, 16, 16),
            patch_size=(1, 2, 2),
            rope_scale=(1.0, 1.0, 1.0),
            concat_padding_mask=concat_padding_mask,
            extra_pos_embed_type=None,
            use_crossattn_projection=v25,
            crossattn_proj_in_channels=QWEN_WIDTH,
            encoder_hidden_states_channels=TEXT_WIDTH,
        )
    return transformer.eval()


def tiny_wan22_vae(latent_channels: int = 48, seed: int = 0) -> AutoencoderKLWan:
    """A VAE as that of Wan 2.2 TI2V: patches of 2 x 2 pixels, 16 pixels a latent position and side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=latent_channels,
            dim_mult=[1, 1, 2, 2],
            num_res_blocks=1,
            latents_mean=torch.linspace(-0.3, 0.3, latent_channels).tolist(),
            latents_std=torch.linspace(0.2, 0.6, latent_channels).tolist(),
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
        )
    return vae.eval()


def tiny_wan_transformer(
    in_channels: int = LATENT_CHANNELS, out_channels: int = LATENT_CHANNELS, seed: int = 0
) -> WanTransformer3DModel:
    """A diffusion transformer of Wan with three blocks, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=TEXT_WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=3,
            rope_max_seq_len=32,
        )
    return transformer.eval()


def tiny_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)


def tiny_unipc() -> UniPCMultistepScheduler:
    """The scheduler of Cosmos-Predict2.5."""
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return UniPCMultistepScheduler(use_karras_sigmas=True, sigma_max=200.0, sigma_min=0.01, **flow)


def tiny_t5(seed: int = 0, *, umt5: bool = False) -> tuple[T5EncoderModel | UMT5EncoderModel, T5TokenizerFast]:
    """The text encoder of a Cosmos or Wan (`umt5`) repository, of width `TEXT_WIDTH`; a tokenizer of characters."""
    pieces = ["<pad>", "</s>", "<unk>", "\N{LOWER ONE EIGHTH BLOCK}", *ascii_letters, *digits, *punctuation]
    tokenizer = T5TokenizerFast(vocab=[(piece, 0.0 if i < 3 else -2.0) for i, piece in enumerate(pieces)], extra_ids=0)
    config = (UMT5Config if umt5 else T5Config)(
        vocab_size=len(tokenizer),
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        is_encoder_decoder=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = (UMT5EncoderModel if umt5 else T5EncoderModel)(config)
    return encoder.eval(), tokenizer


def write_tiny_gemma(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a Gemma 3 repository: config, safetensors, tokenizer, processor. Returns `folder`."""
    tiny_gemma(dtype).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def write_tiny_cosmos(folder: Path, *, with_text_encoder: bool = False, v25: bool = False) -> Path:
    """Write a Cosmos-Predict2 repository, one folder a component and `model_index.json`. Returns `folder`.

    With `v25` it is one of Cosmos-Predict2.5.
    """
    scheduler = tiny_unipc() if v25 else tiny_scheduler()
    components = {"vae": tiny_vae(), "transformer": tiny_transformer(v25=v25), "scheduler": scheduler}
    libraries = dict.fromkeys(components, "diffusers")
    if with_text_encoder:
        components["text_encoder"], components["tokenizer"] = tiny_t5()
        libraries |= {"text_encoder": "transformers", "tokenizer": "transformers"}
    for name, component in components.items():
        component.save_pretrained(folder / name)
    pipeline = "Cosmos2_5_PredictBasePipeline" if v25 else "Cosmos2VideoToWorldPipeline"
    index = {"_class_name": pipeline, "safety_checker": [None, None]}
    index |= {name: [libraries[name], type(component).__name__] for name, component in components.items()}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return folder


def tiny_vjepa2(crop_size: int = 64, seed: int = 0) -> VJEPA2Model:
    """A V-JEPA 2 of two layers with patches of 8 pixels, in evaluation mode."""
    config = VJEPA2Config(
        patch_size=8,
        crop_size=crop_size,
        frames_per_clip=8,
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=2,
        pred_zero_init_mask_tokens=False,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VJEPA2Model(config)
    return model.eval()


WAN = {
    "Wan2.1-T2V": {"_class_name": "WanPipeline"},
    "Wan2.2-TI2V": {"_class_name": "WanPipeline", "expand_timesteps": True},
    "Wan2.2-I2V": {"_class_name": "WanImageToVideoPipeline", "boundary_ratio": 0.9},
}
"""The kinds of Wan repositories, and what `model_index.json` says of each."""


def write_tiny_wan(folder: Path, kind: str, *, with_text_encoder: bool = False) -> Path:
    """Write a Wan repository of one `kind` of `WAN`, without its scheduler. Returns `folder`."""
    vae = tiny_wan22_vae() if kind == "Wan2.2-TI2V" else tiny_vae()
    latent = vae.config.z_dim
    channels = 2 * latent + 4 if kind == "Wan2.2-I2V" else latent
    vae.save_pretrained(folder / "vae")
    for seed, name in enumerate(
        ("transformer", "transformer_2") if "boundary_ratio" in WAN[kind] else ("transformer",)
    ):
        tiny_wan_transformer(channels, latent, seed).save_pretrained(folder / name)
    if with_text_encoder:
        for name, component in zip(("text_encoder", "tokenizer"), tiny_t5(umt5=True), strict=True):
            component.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps(WAN[kind]), encoding="utf-8")
    return folder
