"""Selects supervised positions for the head, and gives every trainable parameter a gradient.

Shape legend: `B` batch, `L` sequence, `S` supervised tokens of the batch, `D` language-model width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from theworld.constants import IGNORE_INDEX

from .configuration_theworld import TheWorldConfig


def select_supervised(hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (S, D) of (B, L, D) whose next token is supervised, and those tokens (S,), in reading order."""
    targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)  # (B, L)
    supervised = targets != IGNORE_INDEX
    return hidden[supervised.to(hidden.device)], targets[supervised]


def zero_of_idle(
    config: TheWorldConfig, model: Any, image: torch.Tensor | None, world: torch.Tensor | None
) -> torch.Tensor:
    """Run unused modules on a blank image so that every rank uses the same parameters (DDP, FSDP, ZeRO-3).

    Call it at the point of `forward` where the modules would run: world, vision tower, then embeddings. In a single
    process, a frozen vision tower does not run.

    Args:
        model: The `TheWorldModel`.
        image: Image features of the batch; `None` if it has no image.
        world: World tokens of the batch; `None` if it has none.

    Returns:
        An exact 0, to be added to the prompt's embeddings.
    """
    dtype, idle = model.dtype, list[torch.Tensor]()
    if world is None and config.enable_world:
        blank = torch.zeros(1, 3, *config.world_image_shape, device=model.device, dtype=dtype)
        idle += [model.get_world_features(blank).pooler_output, *model.fusion_parameters()]
    if image is None and (dist.is_initialized() or trains(model.vision_tower, model.multi_modal_projector)):
        side = cast(Any, config.vision_config).image_size
        blank = torch.zeros(1, 3, side, side, device=model.device, dtype=dtype)
        idle.append(model.get_image_features(blank, return_dict=True).pooler_output)
    # Sums of empty slices are 0 even if features are not finite
    zeros = [features.flatten()[:0].sum().to(model.device, dtype) for features in idle]
    return sum(zeros, torch.zeros((), device=model.device, dtype=dtype))


def trains(*modules: nn.Module | None) -> bool:
    """Whether a parameter of one of the modules trains."""
    return any(value.requires_grad for module in modules if module is not None for value in module.parameters())
