"""The embedding of a rollout's prompt: computed once with the base model's own T5, then read from disk.

Cosmos-Predict2's text encoder has 4.9 billion parameters (9.7 GB) and the prompt never changes, so it is in memory only
while an embedding is made. A base folder may ship embeddings (`prompt_embeds/<key>.safetensors`) and then needs no T5.

Shape legend: `S` prompt tokens, `E` width of the text encoder.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.utils import WeakFileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from transformers import T5EncoderModel, T5Tokenizer
from transformers.utils import cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from theworld.utils.io import write_bytes
from theworld.utils.logging import logger, quiet_third_party
from theworld.utils.weights import check_loaded, content_key, count_parameters

MAX_PROMPT_TOKENS = 512  # as the stock Cosmos pipeline pads
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")
HEADROOM = 1.1  # memory of a device that must be free, in sizes of the text encoder


def no_text(width: int) -> torch.Tensor:
    """The embedding (1, 512, E) of no text, for a rollout without a prompt.

    Cosmos-Predict2 multiplied the embeddings of 20 % of its training clips by zero.

    Args:
        width: `text_embed_dim` of the diffusion transformer.
    """
    return torch.zeros(1, MAX_PROMPT_TOKENS, width)


def save_prompt_embeds(folder: str | Path, prompt: str, embeds: torch.Tensor) -> Path:
    """Write the embedding (1, S, E) of `prompt` where `load_prompt_embeds` looks for it.

    Raises:
        ValueError: It has another shape, or values that are not finite.
    """
    path = Path(folder) / _file_name(prompt)
    embeds = embeds.detach().contiguous().cpu()
    check_embeds(embeds, f"the embedding of {prompt!r}")
    write_bytes(path, save({"prompt_embeds": embeds}, metadata={"sha256": _digest(prompt, embeds)}))
    return path


def load_prompt_embeds(
    name: str, prompts: list[str], subfolder: str = "", *, device: torch.device | str, **hub: Any
) -> list[torch.Tensor]:
    """Embeddings, each (1, S, E), for the base world model `name`: from its folder, our cache, or its T5.

    The cache is keyed by the content of the text encoder, not by its name or path. Of several processes one computes,
    and the others wait for it.

    Args:
        name: Folder or Hub id of the base.
        prompts: All that a rollout needs, so that the T5 is loaded once for them.
        subfolder: Where in `name` the base model lies.
        device: Where to compute, if the memory that is free there suffices; else on the CPU.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        FileNotFoundError: The base model has neither the embeddings nor a text encoder.
        ValueError: The weights of its text encoder are not those of its config, or an embedding that it ships is
            damaged.
    """
    shipped = {prompt: _find(name, _file_name(prompt), subfolder=subfolder, **hub) for prompt in prompts}
    embeds = {prompt: read_prompt_embeds(path, prompt) for prompt, path in shipped.items() if path is not None}
    others = [prompt for prompt, path in shipped.items() if path is None]
    if others:
        files = text_encoder_files(name, others[0], subfolder, **hub)
        folder = cache_folder() / content_key(files)
        embeds |= _read_cache(folder, others)
        if not embeds.keys() >= set(others):
            folder.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(folder / "lock"):
                embeds |= _read_cache(folder, others)  # another process may have written it
                missing = [prompt for prompt in others if prompt not in embeds]
                made = encode_prompts(name, missing, subfolder, device=device, **hub) if missing else []
                for prompt, value in zip(missing, made, strict=True):
                    save_prompt_embeds(folder, prompt, value)
                    embeds[prompt] = value.cpu()
    return [embeds[prompt] for prompt in prompts]


def read_prompt_embeds(path: str | Path, prompt: str) -> torch.Tensor:
    """The embedding (1, S, E) of `prompt` in a file that `save_prompt_embeds` wrote.

    Raises:
        ValueError: The file is damaged, or holds another prompt's embedding.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            embeds = file.get_tensor("prompt_embeds")
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged prompt embedding ({error}); delete it or download it again") from error
    digest = _digest(prompt, embeds)
    if metadata.get("sha256", digest) != digest:  # version 0.1 wrote none
        raise ValueError(f"{path}: damaged, or not the embedding of {prompt!r}; delete it or download it again")
    check_embeds(embeds, path)
    return embeds


def check_embeds(embeds: torch.Tensor, name: object) -> None:
    """Refuse what is no embedding of one prompt.

    Raises:
        ValueError: It is not (1, S, E) in a floating-point type with finite values; names `name`.
    """
    if embeds.ndim != 3 or len(embeds) != 1 or not embeds.numel() or not embeds.is_floating_point():
        found = f"{tuple(embeds.shape)} of {embeds.dtype}"
        raise ValueError(f"{name}: {found}, expected (1, prompt tokens, text width) of a floating-point type")
    if not embeds.isfinite().all():
        raise ValueError(f"{name}: values that are not finite; use a text encoder in bfloat16 or float32")


def encode_prompts(
    name: str, prompts: list[str], subfolder: str = "", *, device: torch.device | str, **hub: Any
) -> list[torch.Tensor]:
    """Run the T5 of `name` as the stock Cosmos pipeline does: each (1, 512, E), zero behind the prompt's end.

    Raises:
        FileNotFoundError: There is no text encoder.
        ValueError: Its weights are not those of its config.
    """
    weights = [path for path in text_encoder_files(name, prompts[0], subfolder, **hub) if path.endswith(".safetensors")]
    size = sum(Path(path).stat().st_size for path in weights)
    device = device_that_holds(torch.device(device), size)
    logger.warning(
        "%s: loading its text encoder (%s parameters, %.1f GB) on %s for the rollout's prompt; once, then cached in %s",
        name,
        f"{count_parameters(weights):,}",
        size / 1e9,
        device,
        cache_folder(),
    )
    with quiet_third_party(progress_bars=True):
        # Not AutoTokenizer: it asks for tokenizer/config.json, which diffusers repositories lack, and fails offline
        tokenizer = T5Tokenizer.from_pretrained(name, subfolder=f"{subfolder}/tokenizer".lstrip("/"), **hub)
        encoder, info = cast(Any, T5EncoderModel).from_pretrained(
            name,
            subfolder=f"{subfolder}/text_encoder".lstrip("/"),
            dtype="auto",
            device_map={"": device},
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below with all other keys
            output_loading_info=True,
            **hub,
        )
    check_loaded(f"{name} (text_encoder)", info)
    embeds = [embed(encoder, tokenizer, prompt) for prompt in prompts]
    del encoder
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()
    return embeds


@torch.no_grad()
def embed(encoder: T5EncoderModel, tokenizer: T5Tokenizer, prompt: str) -> torch.Tensor:
    """The embedding (1, 512, E) of one prompt, on the CPU."""
    text = tokenizer(
        prompt, padding="max_length", max_length=MAX_PROMPT_TOKENS, truncation=True, return_tensors="pt"
    ).to(encoder.device)
    mask = text.attention_mask.bool()  # (1, 512)
    hidden = encoder(text.input_ids, attention_mask=mask).last_hidden_state
    return (hidden * mask.unsqueeze(-1)).cpu()


def device_that_holds(device: torch.device, size: int) -> torch.device:
    """`device` if it has room for `size` bytes of weights, else the CPU."""
    if device.type not in ("cuda", "xpu"):  # others share the CPU's memory, or do not tell what is free
        return torch.device("cpu")
    free, _ = torch.get_device_module(device).mem_get_info(device)
    return device if free >= HEADROOM * size else torch.device("cpu")


def text_encoder_files(name: str, prompt: str, subfolder: str = "", **hub: Any) -> list[str]:
    """Paths of all files that an embedding depends on; fetched if they are not at hand.

    Raises:
        FileNotFoundError: There is no text encoder; says how to get it for `prompt`.
    """
    found = [_find(name, f"tokenizer/{file}", subfolder=subfolder, **hub) for file in TOKENIZER_FILES]
    config = _find(name, "text_encoder/config.json", subfolder=subfolder, **hub)
    weights = _find(name, "text_encoder/model.safetensors", subfolder=subfolder, **hub)
    shards: list[str] = [] if weights is None else [weights]
    index = _find(name, "text_encoder/model.safetensors.index.json", subfolder=subfolder, **hub) if not shards else None
    if index is not None:
        folder = f"{subfolder}/text_encoder".lstrip("/")
        shards = cast(list[str], get_checkpoint_shard_files(name, index, subfolder=folder, **hub)[0])
    parts = {"text_encoder/config.json": config, "text_encoder/model.safetensors": shards, "tokenizer/": any(found)}
    lacking = [part for part, there in parts.items() if not there]
    if config is None or lacking:
        fetch = f"run `hf download {name} --include 'text_encoder/*' --include 'tokenizer/*'`"
        how = "add them" if Path(name).is_dir() else fetch
        raise FileNotFoundError(
            f"{name}: no embedding of the prompt {prompt!r}, and to compute it no {', '.join(lacking)}; {how}, or "
            "leave the prompt out"
        )
    return [*(path for path in found if path is not None), config, *sorted(shards)]


def cache_folder() -> Path:
    """`$THEWORLD_CACHE`, or `theworld` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "theworld"
    return Path(os.environ.get("THEWORLD_CACHE", default))


def _read_cache(folder: Path, prompts: list[str]) -> dict[str, torch.Tensor]:
    """What is cached of `prompts`, without damaged files, which are computed again."""
    known: dict[str, torch.Tensor] = {}
    for prompt in prompts:
        with suppress(FileNotFoundError, ValueError):
            known[prompt] = read_prompt_embeds(folder / _file_name(prompt), prompt)
    return known


def _file_name(prompt: str) -> str:
    """Where a prompt's embedding lies in a base folder."""
    return f"prompt_embeds/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}.safetensors"


def _digest(prompt: str, embeds: torch.Tensor) -> str:
    """Checksum of an embedding and the text that it is of."""
    digest = hashlib.sha256(f"{prompt}\0{tuple(embeds.shape)}{embeds.dtype}".encode())
    digest.update(embeds.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _find(name: str, file: str, **hub: Any) -> str | None:
    return cached_file(
        name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False, **hub
    )


__all__ = ["encode_prompts", "load_prompt_embeds", "no_text", "save_prompt_embeds"]
