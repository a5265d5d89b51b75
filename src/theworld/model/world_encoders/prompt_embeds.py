"""The embedding of a rollout's prompt: computed once with the base model's own T5, then read from disk.

Cosmos-Predict2's text encoder has 4.9 billion parameters (9.7 GB) and the prompt never changes, so it is in memory only
while an embedding is made. A base folder may ship embeddings (`prompt_embeds/<key>.safetensors`) and then needs no T5.

Shape legend: `S` prompt tokens, `E` width of the text encoder.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import WeakFileLock
from transformers import AutoModelForTextEncoding, T5Tokenizer

from theworld.utils.devices import device_that_holds
from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.hub import damage_named
from theworld.utils.io import cache_folder
from theworld.utils.logging import logger, quiet_third_party
from theworld.utils.signed_tensors import read_signed, save_signed
from theworld.utils.weights import content_key, count_parameters, find_file, find_weight_files, load_checked

KEY = "prompt_embeds"  # name of the tensor in a file
MAX_PROMPT_TOKENS = 512  # as the stock Cosmos pipeline pads
TEXT_ENCODERS = ("t5", "umt5")
WIDEST_PADDED = 4096  # largest width that is padded without text as well; T5 has 1024
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")


def no_text(width: int, *, alone: bool = False) -> torch.Tensor:
    """The embedding (1, S, `width`) of no text: Cosmos-Predict2 and 2.5 were trained with zeros for 20 % of the clips.

    It has the length of a text's embedding, so that both fit in one batch. Attention over equal tokens
    equals attention over one of them. So it has one token if there is no text beside it (`alone`), and always for
    Cosmos-Predict2.5, where 512 tokens take 205 MB.
    """
    return torch.zeros(1, 1 if alone or width > WIDEST_PADDED else MAX_PROMPT_TOKENS, width)


def stock_negative_prompt() -> str:
    """The default negative prompt of the stock pipeline."""
    # That module imports NVIDIA's guardrail if it is installed, and the guardrail turns gradients off globally
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        from diffusers.pipelines.cosmos.pipeline_cosmos2_video2world import DEFAULT_NEGATIVE_PROMPT

    return DEFAULT_NEGATIVE_PROMPT


def save_prompt_embeds(folder: str | Path, prompt: str, embeds: torch.Tensor) -> Path:
    """Write the embedding (1, S, E) of `prompt` where `load_prompt_embeds` looks for it; raises as `check_embeds`."""
    path = Path(folder) / _file_name(prompt)
    check_embeds(embeds, f"the embedding of {prompt!r}")
    save_signed(path, KEY, embeds, prompt)
    return path


def load_prompt_embeds(
    name: str, prompts: list[str], subfolder: str = "", *, device: torch.device | str, **hub: Any
) -> list[torch.Tensor]:
    """Embeddings, each (1, S, E), for the base world model `name`: from its folder, our cache, or its T5.

    The cache is keyed by the content of the text encoder, not by its name or path. If several processes need an
    embedding, one computes it and the others wait.

    Args:
        name: Folder or Hub id of the base.
        prompts: All prompts of a rollout, so that the T5 is loaded once.
        device: Device to compute on if its free memory suffices; otherwise the CPU is used.

    Raises:
        FileNotFoundError: The base model has neither the embeddings nor a text encoder.
        ValueError: A shipped embedding is damaged, or the text encoder does not fit its config.
    """
    shipped = {
        prompt: find_file(name, _file_name(prompt), subfolder=subfolder, offline=True, **hub) for prompt in prompts
    }
    embeds = {prompt: read_prompt_embeds(path, prompt) for prompt, path in shipped.items() if path is not None}
    others = [prompt for prompt in prompts if prompt not in embeds]
    if not others:
        return [embeds[prompt] for prompt in prompts]
    folder = cache_folder() / content_key(text_encoder_files(name, others[0], subfolder, **hub))
    folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder / "lock"):  # one process computes, the others wait
        embeds |= _read_cache(folder, others)
        missing = [prompt for prompt in others if prompt not in embeds]
        made = encode_prompts(name, missing, subfolder, device=device, **hub) if missing else []
        for prompt, value in zip(missing, made, strict=True):
            save_prompt_embeds(folder, prompt, value)
            embeds[prompt] = value
    return [embeds[prompt] for prompt in prompts]


def read_prompt_embeds(path: str | Path, prompt: str) -> torch.Tensor:
    """The embedding (1, S, E) in a file of `save_prompt_embeds`; a ValueError if damaged or of another prompt."""
    embeds = read_signed(path, KEY, prompt, "prompt embedding")
    check_embeds(embeds, path)
    return embeds


def check_embeds(embeds: torch.Tensor, name: object) -> None:
    """Raise a ValueError, which names `name`, unless `embeds` is (1, S, E), floating-point and finite."""
    if embeds.ndim != 3 or len(embeds) != 1 or not embeds.numel() or not embeds.is_floating_point():
        found = f"{tuple(embeds.shape)} of {embeds.dtype}"
        raise TheWorldError(f"{name}: {found}, expected (1, prompt tokens, text width) of a floating-point type")
    if not embeds.isfinite().all():
        raise TheWorldError(f"{name}: values that are not finite; use a text encoder in bfloat16 or float32")


def encode_prompts(
    name: str, prompts: list[str], subfolder: str = "", *, device: torch.device | str, **hub: Any
) -> list[torch.Tensor]:
    """Run the T5 of `name` as the stock Cosmos pipeline does: each (1, 512, E), zero after the prompt's end."""
    weights = [path for path in text_encoder_files(name, prompts[0], subfolder, **hub) if path.endswith(".safetensors")]
    size = sum(Path(path).stat().st_size for path in weights)
    device = device_that_holds(torch.device(device), size)
    parameters = f"{count_parameters(weights):,} parameters, {size / 1e9:.1f} GB"
    place = f"on {device} for the rollout's prompt; once, then cached in {cache_folder()}"
    logger.warning("%s: loading its text encoder (%s) %s", name, parameters, place)
    # Not AutoTokenizer: it requests tokenizer/config.json, which diffusers repositories lack, and fails offline
    with quiet_third_party():
        tokenizer = T5Tokenizer.from_pretrained(name, subfolder=f"{subfolder}/tokenizer".lstrip("/"), **hub)
    how: dict[str, Any] = {"dtype": "auto", "device_map": {"": device}, "progress_bars": True, **hub}
    encoder = load_checked(AutoModelForTextEncoding, name, subfolder=f"{subfolder}/text_encoder".lstrip("/"), **how)
    padding: dict[str, Any] = {"padding": "max_length", "max_length": MAX_PROMPT_TOKENS, "truncation": True}
    embeds: list[torch.Tensor] = []
    for prompt in prompts:
        text = tokenizer(prompt, return_tensors="pt", **padding).to(encoder.device)
        with torch.no_grad():
            hidden = encoder(text.input_ids, attention_mask=text.attention_mask).last_hidden_state  # (1, 512, E)
        embeds.append((hidden * text.attention_mask.unsqueeze(-1)).cpu())
    del encoder
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
    return embeds


def check_text_encoder(name: str, config: str) -> None:
    """Raise a ValueError for a text encoder that is no T5, such as the Qwen of Cosmos-Predict2.5."""
    with damage_named(name, "text_encoder"):
        found = json.loads(Path(config).read_text(encoding="utf-8")).get("model_type")
    if found not in TEXT_ENCODERS:
        raise TheWorldError(
            f"{name}: text encoder {found!r}, expected {' or '.join(TEXT_ENCODERS)}; leave prompt and guidance out, or "
            "add embeddings to a copy of it with theworld.model.world_encoders.prompt_embeds.save_prompt_embeds"
        )


def text_encoder_files(name: str, prompt: str, subfolder: str = "", **hub: Any) -> list[str]:
    """Paths of all files that an embedding depends on, fetched if need be; a FileNotFoundError says how to get them."""
    find = partial(find_file, name, subfolder=subfolder, offline=True, **hub)
    tokenizer = [path for file in TOKENIZER_FILES if (path := find(f"tokenizer/{file}")) is not None]
    config = find("text_encoder/config.json")
    if config is not None:
        check_text_encoder(name, config)  # before its weights are fetched
    weights = find_weight_files(name, f"{subfolder}/text_encoder".lstrip("/"), offline=True, **hub)
    parts = {"text_encoder/config.json": config, "text_encoder/model.safetensors": weights, "tokenizer/": tokenizer}
    lacking = [part for part, there in parts.items() if not there]
    if config is None or lacking:
        fetch = f"run `hf download {name} --include 'text_encoder/*' --include 'tokenizer/*'`"
        how = f"{'add them' if Path(name).is_dir() else fetch}, or leave the prompt out"
        missing = f"no embedding of the prompt {prompt!r}, and no {', '.join(lacking)} to compute it"
        raise MissingFileError(f"{name}: {missing}; {how}")
    return [*tokenizer, config, *sorted(weights)]


def _read_cache(folder: Path, prompts: list[str]) -> dict[str, torch.Tensor]:
    """The cached embeddings of `prompts`. Damaged files are left out and computed again."""
    known: dict[str, torch.Tensor] = {}
    for prompt in prompts:
        with suppress(FileNotFoundError, ValueError):
            known[prompt] = read_prompt_embeds(folder / _file_name(prompt), prompt)
    return known


def _file_name(prompt: str) -> str:
    """File of a prompt's embedding, relative to a base folder."""
    return f"prompt_embeds/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}.safetensors"
