"""Which device runs a model."""

from typing import Any

import torch

HEADROOM = 1.1  # memory of a device that must be free, in sizes of the weights


def best_device() -> tuple[torch.device, torch.dtype]:
    """An accelerator in bf16 where there is one, else the CPU in fp32."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu"), torch.bfloat16
    return torch.device("cpu"), torch.float32


def device_that_holds(device: torch.device, size: int) -> torch.device:
    """`device` if it has room for `size` bytes of weights, else the CPU."""
    if device.type not in ("cuda", "xpu"):  # others share the CPU's memory, or do not tell what is free
        return torch.device("cpu")
    free, _ = torch.get_device_module(device).mem_get_info(device)
    return device if free >= HEADROOM * size else torch.device("cpu")


def input_device(model: Any) -> torch.device:
    """The device that a model takes its inputs on: that of its embeddings, or where offloaded ones are computed."""
    weight = model.get_input_embeddings().weight
    if not weight.is_meta:
        return weight.device
    placed = [device for device in model.hf_device_map.values() if device not in ("cpu", "disk", "meta")]
    return torch.device(placed[0] if placed else "cpu")
