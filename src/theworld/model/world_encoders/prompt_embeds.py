"""The embedding of a fixed rollout prompt: computed once with the base model's own T5, then read from disk.

Cosmos-Predict2's text encoder has 11 billion parameters and the prompt never changes, so it is in memory only while an
embedding is made. A base folder may bring embeddings along (`prompt_embeds/<key>.safetensors`); it then needs no T5.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from transformers import T5EncoderModel, T5TokenizerFast
from transformers.utils import cached_file

from theworld.utils.io import write_bytes
from theworld.utils.logging import quiet_third_party

MAX_PROMPT_TOKENS = 512  # as the stock Cosmos pipeline pads


def prompt_key(prompt: str) -> str:
    """File name of a prompt's embedding."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def save_prompt_embeds(folder: str | Path, prompt: str, embeds: torch.Tensor) -> Path:
    """Write the embedding (1, S, E) of `prompt` where `load_prompt_embeds` looks for it."""
    path = Path(folder) / "prompt_embeds" / f"{prompt_key(prompt)}.safetensors"
    write_bytes(path, save({"prompt_embeds": embeds.contiguous().cpu()}, metadata={"prompt": prompt}))
    return path


def load_prompt_embeds(
    name: str, prompts: list[str], subfolder: str = "", *, device: Any = "cpu", **hub: Any
) -> list[torch.Tensor]:
    """Embeddings, each (1, S, E), for the base world model `name`: from its folder, our cache, or its T5.

    Args:
        name: Folder or Hub id of the base.
        prompts: All that a rollout needs, so that the T5 is loaded once for them.
        subfolder: Where in `name` the base model lies.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: The base model has neither the embeddings nor a text encoder.
    """
    cache = cache_folder() / _identity(name, subfolder, hub.get("revision"))
    paths: dict[str, str | Path] = {}
    for prompt in prompts:
        file = f"prompt_embeds/{prompt_key(prompt)}.safetensors"
        paths[prompt] = _find(name, file, subfolder=subfolder, **hub) or cache / file
    missing = [prompt for prompt, path in paths.items() if not Path(path).is_file()]
    if missing:
        for prompt, embeds in zip(missing, encode_prompts(name, missing, subfolder, **hub), strict=True):
            save_prompt_embeds(cache, prompt, embeds)
    return [load_file(paths[prompt])["prompt_embeds"] for prompt in prompts]


def no_text(width: int) -> torch.Tensor:
    """The embedding of no text."""
    return torch.zeros(1, MAX_PROMPT_TOKENS, width)


@torch.no_grad()
def encode_prompts(name: str, prompts: list[str], subfolder: str = "", **hub: Any) -> list[torch.Tensor]:
    """Run the T5 of `name` as the stock Cosmos pipeline does: each (1, 512, E), zero behind the prompt's end."""
    if _find(name, "text_encoder/config.json", subfolder=subfolder, **hub) is None:
        raise ValueError(f"{name}: no text_encoder folder and no embedding of the prompt {prompts[0]!r}; add one")
    with quiet_third_party():
        tokenizer = T5TokenizerFast.from_pretrained(name, subfolder=f"{subfolder}/tokenizer".lstrip("/"), **hub)
        folder = f"{subfolder}/text_encoder".lstrip("/")
        encoder = T5EncoderModel.from_pretrained(name, subfolder=folder, dtype="auto", use_safetensors=True, **hub)
    padding = {"padding": "max_length", "max_length": MAX_PROMPT_TOKENS, "truncation": True, "return_tensors": "pt"}
    embeds: list[torch.Tensor] = []
    for prompt in prompts:
        text = tokenizer(prompt, **padding)
        mask = text.attention_mask.bool()
        embeds.append(encoder(text.input_ids, attention_mask=mask).last_hidden_state * mask.unsqueeze(-1))
    return embeds


def cache_folder() -> Path:
    """`$THEWORLD_CACHE`, or `theworld` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "theworld"
    return Path(os.environ.get("THEWORLD_CACHE", default))


def _identity(name: str, subfolder: str, revision: str | None) -> str:
    """Cache folder of one base; a local one that is written anew gets another."""
    local = Path(name) / subfolder / "text_encoder"
    written = local.stat().st_mtime_ns if local.is_dir() else ""
    return hashlib.sha256(f"{name}/{subfolder}@{revision}{written}".encode()).hexdigest()[:16]


def _find(name: str, file: str, **hub: Any) -> str | None:
    return cached_file(
        name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False, **hub
    )


__all__ = ["encode_prompts", "load_prompt_embeds", "save_prompt_embeds"]
