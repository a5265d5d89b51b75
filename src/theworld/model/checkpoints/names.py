"""What the files and parameters of a checkpoint are called."""

from __future__ import annotations

from pathlib import Path

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
OPTIMIZER, OPTIMIZER_GROUPS = "optimizer.safetensors", "optimizer.json"
GEMMA_FOLDER, COSMOS_FOLDER = "gemma", "cosmos"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".json")


def canonical(name: str) -> str:
    """The name of a parameter without the wrappers of PEFT and `torch.compile` around its module."""
    return name.replace(".base_layer.", ".").replace("._orig_mod.", ".")


def checkpoint_subfolder(checkpoint_name: str | None) -> str:
    """The folder inside a repository that `checkpoint_name`, a folder or a file in one, means."""
    if checkpoint_name is None:
        return ""
    path = Path(checkpoint_name)
    folder = path.parent if path.suffix in WEIGHT_SUFFIXES else path
    return "" if folder == Path() else folder.as_posix()
