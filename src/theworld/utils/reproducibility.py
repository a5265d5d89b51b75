"""Seeds, random weights, and a record of the environment of a result."""

import math
import platform
import random
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .errors import TheWorldError

PACKAGES = (
    *("theworld", "torch", "transformers", "diffusers", "accelerate", "safetensors", "tokenizers", "numpy"),
    *("datasets", "peft", "trl", "pymunk"),
)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, on every device.

    Raises:
        ValueError: if `seed` is outside [0, 2**32), which NumPy cannot take.
    """
    if not 0 <= seed < 2**32:
        raise TheWorldError(f"seed must be in [0, 2**32), got {seed}.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def environment() -> dict[str, Any]:
    """Versions, machine and source state, as JSON values.

    Returns:
        `python`, `platform`, `packages` (name -> version or None), `devices` (names, the CPU last), `threads`, and
        `git` (`commit` and `dirty` of the checkout that the package is imported from, or None).
    """
    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: installed_version(name) for name in PACKAGES},
        "devices": [*cuda, *mps, "cpu"],
        "threads": torch.get_num_threads(),
        "git": _git_state(Path(__file__).parent),
    }


def installed_version(package: str) -> str | None:
    """Version of a distribution; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that tracks `folder`; None outside one, as in an installed package."""
    try:
        _git(folder, "ls-files", "--error-unmatch", ".")  # raises for a .venv that the checkout ignores
        return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def git_text(git: dict[str, Any] | None) -> str:
    """`git` of `environment()` for people."""
    return "no checkout" if git is None else git["commit"][:12] + (" with local changes" if git["dirty"] else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


@torch.no_grad()
def draw_weights(module: nn.Module, seed: int) -> None:
    """Replace all weights by random ones: normal by fan-in; one-dimensional weights are 1, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        if parameter.ndim < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter[0].numel()))
