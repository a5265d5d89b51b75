"""One tensor in a file, with a checksum of it and of the text that it belongs to."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .errors import TheWorldError
from .io import write_bytes


def save_signed(path: Path, name: str, tensor: torch.Tensor, text: str) -> None:
    """Write one tensor as `name`, with a checksum of it and of the text that it belongs to, atomically."""
    tensor = tensor.detach().contiguous().cpu()
    write_bytes(path, save({name: tensor}, metadata={"sha256": _signature(tensor, text)}))


def read_signed(path: str | Path, name: str, text: str, kind: str) -> torch.Tensor:
    """The tensor that `save_signed` wrote; errors refer to it as `kind`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or its tensor belongs to another text.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensor = file.get_tensor(name)
    except SafetensorError as error:
        raise TheWorldError(f"{path}: damaged {kind} ({error}); delete it or download it again") from error
    signature = _signature(tensor, text)
    if metadata.get("sha256", signature) != signature:  # version 0.1 wrote none
        raise TheWorldError(f"{path}: damaged, or not the {kind} of {text!r}; delete it or download it again")
    return tensor


def _signature(tensor: torch.Tensor, text: str) -> str:
    digest = hashlib.sha256(f"{text}\0{tuple(tensor.shape)}{tensor.dtype}".encode())
    digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


__all__ = ["read_signed", "save_signed"]
