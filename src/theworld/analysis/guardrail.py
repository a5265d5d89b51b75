"""NVIDIA's guardrail over frames that are decoded from NVIDIA's weights.

The NVIDIA Open Model Licence ends for users who bypass a model's guardrail without a similar replacement. So all code
here that decodes frames calls `needs_guardrail` and runs `guarded`; there is no option to turn it off.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import cached_file

from theworld.model.world_encoders import WorldEncoder
from theworld.utils.errors import MissingPackageError, TheWorldError
from theworld.utils.imports import require

EXTRA, PACKAGE = "cosmos-guardrail", "cosmos_guardrail"

# (layers, heads, head width) of Cosmos-Predict2's transformers, 2B and 14B: they identify copies of the weights
NVIDIA_SHAPES = ((28, 16, 128), (36, 40, 128))

MISSING = (
    "frames decoded from {name} come from NVIDIA's weights. Their licence, the NVIDIA Open Model Licence, ends if "
    'their guardrail is bypassed, and the guardrail is not installed: pip install "theworld[cosmos-guardrail]"'
)


def needs_guardrail(encoder: WorldEncoder, subfolder: str = "") -> bool:
    """Whether frames that `encoder` decodes come from NVIDIA's weights, or from a derived model.

    True for a repository of NVIDIA, a copy of one in the Hub's cache, one whose `model_index.json` has a safety checker
    or names NVIDIA's as its source, and for a transformer of a size that NVIDIA published.

    Args:
        encoder: The world encoder; its `source` names the folder or Hub id.
        subfolder: Sub-folder of the world model (`cosmos_subfolder` of the config).
    """
    if "model" not in encoder.source:
        return False
    name, revision = str(encoder.source["model"]), encoder.source["revision"]
    if name.lower().startswith("nvidia/") or "models--nvidia--" in name.lower():
        return True
    index = _read_json(name, "model_index.json", subfolder, revision)
    checker = index.get("safety_checker") or [None]
    if any(checker) or str(index.get("_name_or_path", "")).lower().startswith("nvidia/"):
        return True
    shape = _read_json(name, "config.json", f"{subfolder}/transformer".lstrip("/"), revision)
    fields = ("num_layers", "num_attention_heads", "attention_head_dim")
    return tuple(shape.get(field) for field in fields) in NVIDIA_SHAPES


def can_show(encoder: WorldEncoder, subfolder: str = "") -> bool:
    """Whether frames can and may be decoded here: the encoder decodes, and the guardrail, if needed, is installed."""
    installed = importlib.util.find_spec(PACKAGE) is not None
    return encoder.can_decode and (installed or not needs_guardrail(encoder, subfolder))


def check_installed(name: str) -> None:
    """Check that frames of `name` can be shown, before minutes are spent on a rollout.

    Raises:
        ImportError: The extra `cosmos-guardrail` is not installed; names it and the licence's condition.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingPackageError(MISSING.format(name=name))


@functools.cache
def load_guardrail() -> Any:
    """NVIDIA's `CosmosSafetyChecker`, loaded once.

    Importing it turns gradients off for the whole process (one of its dependencies calls
    `torch.set_grad_enabled(False)`); here the previous mode is restored.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        return require(EXTRA, PACKAGE).CosmosSafetyChecker()


def guarded(frames: torch.Tensor, encoder: WorldEncoder) -> torch.Tensor:
    """Check frames, and make faces unrecognisable: (F, 3, H, W) in [0, 1] -> the same shape and range.

    Raises:
        ImportError: The guardrail is not installed.
        ValueError: It refuses the rollout's prompt or the frames.
    """
    name = str(encoder.source["model"])
    check_installed(name)
    checker = load_guardrail()
    with torch.set_grad_enabled(torch.is_grad_enabled()):  # as above, in case running it turns gradients off
        checker.to(frames.device)
        if encoder.prompt and not checker.check_text_safety(encoder.prompt):
            raise TheWorldError(f"NVIDIA's guardrail refuses world_prompt={encoder.prompt!r}: choose another")
        pixels = (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()  # (F, H, W, 3)
        passed = checker.check_video_safety(pixels)
        checker.to("cpu")
    if passed is None:
        raise TheWorldError(f"NVIDIA's guardrail refuses the frames that {name} imagined: they are not shown")
    return torch.from_numpy(np.asarray(passed)).permute(0, 3, 1, 2).to(frames) / 255


def _read_json(name: str, file: str, subfolder: str, revision: str | None) -> dict[str, Any]:
    """A JSON file of a model; empty if there is none."""
    path = cached_file(
        name,
        file,
        subfolder=subfolder,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


__all__ = ["can_show", "check_installed", "guarded", "load_guardrail", "needs_guardrail"]
