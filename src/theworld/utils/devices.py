"""Which device runs a model."""

from typing import Any

import torch

from .errors import TheWorldError

HEADROOM = 1.1  # free memory that is needed, as a multiple of the size of the weights


def best_device() -> tuple[torch.device, torch.dtype]:
    """An accelerator with bf16 if there is one, otherwise the CPU with fp32."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu"), torch.bfloat16
    return torch.device("cpu"), torch.float32


def check_device(name: str) -> None:
    """Raise a ValueError unless `name` is the CPU or an accelerator of this machine."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    kind = None if accelerator is None else accelerator.type
    known = ["cpu", *(f"{kind}:{place}" for place in range(torch.accelerator.device_count()))]
    if name not in (*known, kind):
        raise TheWorldError(f"device={name!r}: this machine has {', '.join(known)}")


def device_that_holds(device: torch.device, size: int) -> torch.device:
    """`device` if it has room for `size` bytes of weights, else the CPU."""
    if device.type not in ("cuda", "xpu"):  # others share the CPU's memory, or do not report free memory
        return torch.device("cpu")
    free, _ = torch.get_device_module(device).mem_get_info(device)
    return device if free >= HEADROOM * size else torch.device("cpu")


def input_device(model: Any) -> torch.device:
    """The device of a model's inputs: that of its embeddings, or the one that computes offloaded embeddings."""
    weight = model.get_input_embeddings().weight
    if not weight.is_meta:
        return weight.device
    placed = [device for device in model.hf_device_map.values() if device not in ("cpu", "disk", "meta")]
    return torch.device(placed[0] if placed else "cpu")
