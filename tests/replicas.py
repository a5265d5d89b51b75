"""The two base repositories at toy size: file names, key names and config fields of the real ones, in a Hub cache.

    with replica_cache(tmp_path) as cache:
        publish(write_gemma(tmp_path / "gemma"), cache.hub, GEMMA)
        TheWorld.from_pretrained(GEMMA)  # by id, offline

A cache that `hf download` made holds links to blobs and no record of files that the repository lacks, which folders on
disk cannot show: a loader that asks for an absent file fails there only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers.utils.hub
from diffusers import AutoencoderKLWan
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.hub_server import File
from theworld.nano import tokenizer as nano_tokenizer

GEMMA = "google/gemma-3-4b-it"
COSMOS = "nvidia/Cosmos-Predict2-2B-Video2World"
SPARE_ROWS = 15  # of the embedding table, behind the tokenizer's last entry (63 in the real model)

# Fields of the real files; whatever else a config of this version of the libraries holds, the real one lacks.
GEMMA_FIELDS = ("boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image", "initializer_range")
TEXT_FIELDS = ("hidden_size", "intermediate_size", "model_type", "num_hidden_layers", "sliding_window")
TEXT_SIZES = ("num_attention_heads", "num_key_value_heads", "head_dim", "query_pre_attn_scalar")  # toy size only
VISION_FIELDS = (*TEXT_FIELDS[:4], "image_size", "num_attention_heads", "patch_size", "vision_use_head")
VAE_FIELDS = [
    "_class_name",
    "attn_scales",
    "base_dim",
    "dim_mult",
    "dropout",
    "latents_mean",
    "latents_std",
    "num_res_blocks",
    "temperal_downsample",
    "z_dim",
]
WAN22_FIELDS = ("in_channels", "is_residual", "out_channels", "patch_size", "scale_factor_spatial")
TRANSFORMER_FIELDS = [
    "_class_name",
    "adaln_lora_dim",
    "attention_head_dim",
    "concat_padding_mask",
    "extra_pos_embed_type",
    "in_channels",
    "max_size",
    "mlp_ratio",
    "num_attention_heads",
    "num_layers",
    "out_channels",
    "patch_size",
    "rope_scale",
    "text_embed_dim",
]

# The template of the Gemma 3 repositories
CHAT_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
"""


@dataclass(frozen=True)
class Cache:
    """A Hub cache to which this process is turned.

    Args:
        hub: The folder of `models--owner--name`.
        environment: Variables that turn another process to it.
    """

    hub: Path
    environment: dict[str, str]


@contextmanager
def replica_cache(home: Path) -> Iterator[Cache]:
    """Turn this process, and those started with `environment`, to an offline cache and a prompt cache below `home`."""
    hub = home / "hub"
    hub.mkdir(parents=True, exist_ok=True)
    environment = {
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(hub),
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "",
        "THEWORLD_CACHE": str(home / "theworld"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        # What the client made of its variables when it was imported
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(hub))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(transformers.utils.hub, "_hf_api", None)
        yield Cache(hub, environment)


def publish(folder: Path, hub: Path, repo: str) -> Path:
    """Lay the files of `folder` down in the cache `hub` as `hf download` does, at `main`. Returns the snapshot."""
    base = hub / f"models--{repo.replace('/', '--')}"
    files = {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    names = {path: File(content, path.suffix in (".safetensors", ".model")).oid for path, content in files.items()}
    commit = hashlib.sha1(json.dumps([repo, *sorted(names.values())]).encode()).hexdigest()
    shutil.rmtree(base, ignore_errors=True)
    for path, content in files.items():
        blob = base / "blobs" / names[path]
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = base / "snapshots" / commit / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (2 + len(path.parts) - 1)) / "blobs" / names[path])
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(commit, encoding="utf-8")
    return base / "snapshots" / commit


# ---------------------------------------------------------------------------------------------------- Gemma 3


def write_gemma(folder: Path) -> Path:
    """Write a Gemma 3 repository as Google published it: old key names, two shards, old file names. Returns `folder`.

    The spare slots `<unused0>` to `<unused2>` have the ids 6, 7 and 8 and are not special tokens.
    """
    core = (*nano_tokenizer.CORE_TOKENS, "[multimodal]")
    with mock.patch.object(nano_tokenizer, "CORE_TOKENS", core):
        model, processor = tiny.tiny_gemma(torch.bfloat16), tiny.tiny_processor()
    processor.save_pretrained(folder)  # tokenizer.json is of the same form then and now
    (folder / "chat_template.jinja").unlink()
    weights = {old_gemma_name(name): value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    table = "language_model.model.embed_tokens.weight"
    weights[table] = torch.cat([weights[table], weights[table][:SPARE_ROWS] * 0.5])
    write_shards(folder, weights)
    saved = model.config.to_dict()
    text, vision = saved["text_config"], saved["vision_config"]
    config = {
        "_attn_implementation_autoset": True,
        "architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [1, saved["eos_token_id"]],
        "model_type": "gemma3",
        "text_config": {name: text[name] for name in (*TEXT_FIELDS, *TEXT_SIZES)}
        | {"vocab_size": len(weights[table]), "sliding_window_pattern": 2}  # toy size only, as TEXT_SIZES
        | {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0",
        "vision_config": {name: vision[name] for name in VISION_FIELDS},
        **{name: saved[name] for name in GEMMA_FIELDS},
    }
    write(folder / "config.json", config)
    for name, content in gemma_text_files(processor, saved["eos_token_id"]).items():
        write(folder / name, content)
    (folder / "README.md").write_text("---\nlicense: gemma\nlibrary_name: transformers\n---\n", encoding="utf-8")
    return folder


def old_gemma_name(name: str) -> str:
    """A parameter's name in the published files: `language_model.model.*`, `vision_tower.vision_model.*`."""
    name = name.removeprefix("model.")
    name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name.replace("language_model.", "language_model.model.", 1)


def write_shards(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write `weights` to two safetensors files with an index."""
    index: dict[str, str] = {}
    names = sorted(weights)
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name].contiguous() for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    size = sum(value.nbytes for value in weights.values())
    write(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": index})


def gemma_text_files(processor: Any, end_of_turn: int) -> dict[str, Any]:
    """What lies beside the weights, by file name."""
    tokenizer, side = processor.tokenizer, tiny.IMAGE_SIZE
    tokens = {"boi_token": nano_tokenizer.BOI_TOKEN, "eoi_token": nano_tokenizer.EOI_TOKEN}
    tokens["image_token"] = nano_tokenizer.IMAGE_TOKEN
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    core = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")}
    return {
        "generation_config.json": {
            "_from_model_config": True,
            "bos_token_id": 2,
            "cache_implementation": "hybrid",
            "do_sample": True,
            "eos_token_id": [1, end_of_turn],
            "pad_token_id": 0,
            "top_k": 64,
            "top_p": 0.95,
            "transformers_version": "4.50.0.dev0",
        },
        "processor_config.json": {"image_seq_length": tiny.IMAGE_TOKENS, "processor_class": "Gemma3Processor"},
        "preprocessor_config.json": {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_pan_and_scan": None,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "Gemma3ImageProcessor",
            "image_seq_length": tiny.IMAGE_TOKENS,
            "image_std": [0.5, 0.5, 0.5],
            "pan_and_scan_max_num_crops": None,
            "pan_and_scan_min_crop_size": None,
            "pan_and_scan_min_ratio_to_activate": None,
            "processor_class": "Gemma3Processor",
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": side, "width": side},
        },
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "added_tokens.json": {nano_tokenizer.IMAGE_TOKEN: tokenizer.convert_tokens_to_ids(nano_tokenizer.IMAGE_TOKEN)},
        "special_tokens_map.json": {
            **tokens,
            **{name: {"content": token, **plain} for name, token in core.items()},
        },
        "tokenizer_config.json": {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": {
                str(number): {"content": token.content, **plain, "special": token.special}
                for number, token in tokenizer.added_tokens_decoder.items()
            },
            "clean_up_tokenization_spaces": False,
            "extra_special_tokens": tokens,
            **tokens,
            **core,
            "model_max_length": 1000000000000000019884624838656,
            "processor_class": "Gemma3Processor",
            "sp_model_kwargs": None,
            "spaces_between_special_tokens": False,
            "tokenizer_class": "GemmaTokenizer",
            "use_default_system_prompt": False,
        },
    }


# ------------------------------------------------------------------------------------------- Cosmos-Predict2


def write_cosmos(
    folder: Path, *, transformer: bool = True, text_encoder: bool = False, vae: AutoencoderKLWan | None = None
) -> Path:
    """Write a Cosmos-Predict2 repository as NVIDIA published it. Returns `folder`.

    Args:
        transformer: Whether `transformer/` and `scheduler/` are there; without them it holds what K = 0 needs.
        text_encoder: Whether `text_encoder/` and `tokenizer/` are there; the latter has no config.json.
        vae: In place of the tiny Wan 2.1 VAE.
    """
    channels = tiny.LATENT_CHANNELS if vae is None else vae.config["z_dim"]
    (tiny.tiny_vae() if vae is None else vae).save_pretrained(folder / "vae")
    keep_fields(folder / "vae", (*VAE_FIELDS, *(() if vae is None else WAN22_FIELDS)))
    if transformer:
        tiny.tiny_transformer(channels, concat_padding_mask=True).save_pretrained(folder / "transformer")
        keep_fields(folder / "transformer", TRANSFORMER_FIELDS)
        tiny.tiny_scheduler().save_pretrained(folder / "scheduler")
    if text_encoder:
        encoder, tokenizer = tiny.tiny_t5()
        encoder.save_pretrained(folder / "text_encoder")
        tokenizer.save_pretrained(folder / "tokenizer")
    index = {
        "_class_name": "Cosmos2VideoToWorldPipeline",
        "_diffusers_version": "0.34.0.dev0",
        "safety_checker": ["cosmos_guardrail", "CosmosSafetyChecker"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "CosmosTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    write(folder / "model_index.json", index)
    return folder


def wan22_vae() -> AutoencoderKLWan:
    """A tiny VAE of Wan 2.2's form, as Cosmos 3 uses: 48 channels, 16x in space, residual blocks, 2 x 2 patches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKLWan(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=48,
            dim_mult=[1, 1, 2, 2],
            num_res_blocks=1,
            latents_mean=torch.linspace(-0.3, 0.3, 48).tolist(),
            latents_std=torch.linspace(0.2, 0.6, 48).tolist(),
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
        )
    return vae.eval()


def keep_fields(folder: Path, fields: Sequence[str]) -> None:
    """Remove from a component's config what the published one, of an older diffusers, lacks."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write(path, {name: config[name] for name in fields} | {"_diffusers_version": "0.34.0.dev0"})


def edit_weights(file: Path, *, remove: str | None = None, add: dict[str, torch.Tensor] | None = None) -> None:
    """Remove the weights whose names begin with `remove` from a safetensors file, and add or replace others."""
    weights = load_file(file)
    kept = {name: value for name, value in weights.items() if remove is None or not name.startswith(remove)}
    assert remove is None or len(kept) < len(weights)
    save_file({**kept, **(add or {})}, file, metadata={"format": "pt"})


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True), encoding="utf-8")


__all__ = [
    "COSMOS",
    "GEMMA",
    "Cache",
    "edit_weights",
    "publish",
    "replica_cache",
    "wan22_vae",
    "write_cosmos",
    "write_gemma",
]
