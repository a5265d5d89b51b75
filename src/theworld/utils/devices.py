"""Where a command runs a model when nobody says."""

import torch


def best_device() -> tuple[torch.device, torch.dtype]:
    """An accelerator in bf16 where there is one, else the CPU in fp32."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu"), torch.bfloat16
    return torch.device("cpu"), torch.float32
