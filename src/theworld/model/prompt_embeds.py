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
from transformers import AutoTokenizer, T5EncoderModel
from transformers.utils import cached_file

from theworld.utils.io import write_bytes

MAX_PROMPT_TOKENS = 512  # as the stock Cosmos pipeline pads


def prompt_key(prompt: str) -> str:
    """File name of a prompt's embedding."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def save_prompt_embeds(folder: str | Path, prompt: str, embeds: torch.Tensor) -> Path:
    """Write the embedding (1, S, E) of `prompt` where `load_prompt_embeds` looks for it."""
    path = Path(folder) / "prompt_embeds" / f"{prompt_key(prompt)}.safetensors"
    write_bytes(path, save({"prompt_embeds": embeds.contiguous().cpu()}, metadata={"prompt": prompt}))
    return path


def load_prompt_embeds(name: str, prompt: str, subfolder: str = "", **hub: Any) -> torch.Tensor:
    """Embedding (1, S, E) of `prompt` for the base world model `name`: from its folder, our cache, or its T5.

    Args:
        subfolder: Where in `name` the base model lies.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ValueError: The base model has neither the embedding nor a text encoder.
    """
    file = f"prompt_embeds/{prompt_key(prompt)}.safetensors"
    shipped = _find(name, file, subfolder=subfolder, **hub)
    if shipped is not None:
        return load_file(shipped)["prompt_embeds"]
    cache = cache_folder() / hashlib.sha256(f"{name}/{subfolder}@{hub.get('revision')}".encode()).hexdigest()[:16]
    if not (cache / file).is_file():
        save_prompt_embeds(cache, prompt, encode_prompt(name, prompt, subfolder, **hub))
    return load_file(cache / file)["prompt_embeds"]


@torch.no_grad()
def encode_prompt(name: str, prompt: str, subfolder: str = "", **hub: Any) -> torch.Tensor:
    """Run the T5 of `name` on `prompt` as the stock Cosmos pipeline does: (1, 512, E), zero behind the prompt's end."""
    if _find(name, "text_encoder/config.json", subfolder=subfolder, **hub) is None:
        raise ValueError(f"{name}: no text_encoder folder and no embedding of the prompt {prompt!r}; add one of them")
    tokenizer = AutoTokenizer.from_pretrained(name, subfolder=f"{subfolder}/tokenizer".lstrip("/"), **hub)
    folder = f"{subfolder}/text_encoder".lstrip("/")
    encoder = T5EncoderModel.from_pretrained(name, subfolder=folder, dtype="auto", **hub)
    text = tokenizer(prompt, padding="max_length", max_length=MAX_PROMPT_TOKENS, truncation=True, return_tensors="pt")
    mask = text.attention_mask.bool()
    embeds = encoder(text.input_ids, attention_mask=mask).last_hidden_state
    return embeds * mask.unsqueeze(-1)


def cache_folder() -> Path:
    """`$THEWORLD_CACHE`, or `theworld` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "theworld"
    return Path(os.environ.get("THEWORLD_CACHE", default))


def _find(name: str, file: str, **hub: Any) -> str | None:
    return cached_file(
        name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False, **hub
    )


__all__ = ["encode_prompt", "load_prompt_embeds", "save_prompt_embeds"]
