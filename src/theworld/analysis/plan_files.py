"""The files that a model needs, with sizes and licences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelInfo, metadata_load
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from theworld.model import TheWorld
from theworld.model.checkpoints.load import Plan
from theworld.model.components import component_sizes
from theworld.utils.hub import Source, portable, shown

LISTED, ON_DISK, ESTIMATED, UNKNOWN = "listed by the Hub", "on this disk", "at 2 bytes per parameter", "unknown"
KNOWN = {
    "google/gemma-3": "Gemma Terms of Use; gated",
    "nvidia/Cosmos": "NVIDIA Open Model Licence; gated",
    "nano": "MIT, in this package",
}
"""Licence and access by prefix of a repository's name, for use without the Hub."""

TEXT_ENCODER = 4_864_800_000
"""Parameters of the text encoder of Cosmos-Predict2, the encoder of T5-11B."""


@dataclass(frozen=True)
class Download:
    """Files of one component.

    Args:
        repository: Hub id, or the name of a folder.
        component: Its folder in the repository; empty for the whole.
        files: Number of files; `None` if unknown.
        gigabytes: Size; `None` if unknown.
        known: Source of the size.
        licence: Licence, and whether its terms have to be accepted.
    """

    repository: str
    component: str
    files: int | None
    gigabytes: float | None
    known: str
    licence: str


def downloads_of(loading: Plan, model: TheWorld) -> list[Download]:
    """Files that `from_pretrained` downloads for `model`, which has no weights."""
    # 1. The base Gemma 3, and the checkpoint on top of it
    encoder, sizes = model.model.world_encoder, component_sizes(model)
    found = _downloads(loading.gemma, {"": sum(sizes[component].total for component in ("vision", "language"))})
    if loading.source != loading.gemma:
        found += _downloads(loading.source, {"": None})
    if loading.cosmos is None or encoder is None:
        return found
    # 2. Components of the world model
    config = model.config
    needed: dict[str, int | None] = {
        name: sum(parameter.numel() for parameter in child.parameters()) for name, child in encoder.named_children()
    }
    if config.num_world_steps and (config.world_prompt is not None or config.world_guidance_scale > 1):
        needed["text_encoder"] = TEXT_ENCODER
    return found + _downloads(loading.cosmos, needed)


def _downloads(source: Source, needed: Mapping[str, int | None]) -> list[Download]:
    """Files of every component of `source`; `needed` has their parameters."""
    info = hub_info(source)
    sizes, known = (local_sizes(source), ON_DISK) if info is None else (listed_sizes(info), LISTED)
    licence, found = licence_of(source, info), list[Download]()
    for component, count in needed.items():
        prefix = source.folder(component) if component else source.subfolder
        chosen = {path: size for path, size in sizes.items() if not prefix or path.startswith(f"{prefix}/")}
        if component == "text_encoder" and any(path.startswith(source.folder("prompt_embeds/")) for path in sizes):
            continue  # the repository has embeddings of its prompts instead
        weights = sum(size for path, size in chosen.items() if path.endswith(".safetensors"))
        gigabytes, origin = (weights or sum(chosen.values())) / 1e9, known
        if not weights and count is not None:
            gigabytes, origin = 2 * count / 1e9, ESTIMATED
        elif not weights:
            gigabytes, origin = None, UNKNOWN
        files = len(chosen) or None
        found.append(Download(shown(portable(source.name)), component, files, gigabytes, origin, licence))
    return found


def hub_info(source: Source) -> ModelInfo | None:
    """The Hub's data about a repository; `None` for a folder, or if the Hub cannot be reached."""
    if Path(source.name).is_dir():
        return None
    api = HfApi(token=source.hub.get("token"))
    try:
        return api.model_info(source.name, revision=source.revision, files_metadata=True)
    except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled):
        return None


def listed_sizes(info: ModelInfo) -> dict[str, int]:
    """Bytes by path, as listed by the Hub; 0 if unknown."""
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def local_sizes(source: Source) -> dict[str, int]:
    """Bytes by path in a folder; empty for a repository."""
    folder = Path(source.name)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def licence_of(source: Source, info: ModelInfo | None) -> str:
    """Licence and access, from the Hub, the folder's README, or `KNOWN`."""
    card, gated = Path(source.name, "README.md"), ""
    data: Mapping[str, Any] = (metadata_load(card) or {}) if card.is_file() else {}
    if info is not None:
        data = info.card_data.to_dict() if info.card_data else {}
        gated = f"; gated: accept its terms at https://huggingface.co/{source.name}" if info.gated else ""
    licence = data.get("license")
    name = (data.get("license_name") if licence == "other" else None) or licence
    known = next((text for start, text in KNOWN.items() if portable(source.name).startswith(start)), "see its README")
    return f"{name}{gated}" if name else f"{known.partition(';')[0]}{gated}" if gated else known


__all__ = ["Download", "downloads_of"]
