"""Parts that a batch without images leaves idle, run on a blank image all the same.

With several processes every one has to use the same parts in the same order: DDP awaits a gradient of every trainable
parameter, and FSDP and ZeRO-3 gather a layer's weights from all processes when one of them runs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import nn

if TYPE_CHECKING:
    from .modeling_theworld import TheWorldModel


def zero_of_idle(model: TheWorldModel, image: torch.Tensor | None, world: torch.Tensor | None) -> torch.Tensor:
    """An exact 0 that depends on the parts whose features `image` and `world` are absent; for the prompt's embeddings.

    Call it where the model runs those parts on images: the world before the vision tower, both before the embeddings.
    The vision tower is left alone if nothing asks for it: one process, and a frozen tower.
    """
    config, dtype = model.config, model.dtype
    idle: list[torch.Tensor] = []
    if world is None and config.enable_world:
        assert model.world_markers is not None
        side = config.world_image_size
        blank = torch.zeros(1, 3, side, side, device=model.device, dtype=dtype)
        idle += [cast(torch.Tensor, model.get_world_features(blank).pooler_output), model.world_markers.weight]
    if image is None and (dist.is_initialized() or _trains(model.vision_tower, model.multi_modal_projector)):
        side = config.vision_config.image_size  # type: ignore[union-attr]
        blank = torch.zeros(1, 3, side, side, device=model.device, dtype=dtype)
        idle.append(cast(Any, model.get_image_features)(blank, return_dict=True).pooler_output)
    zeros = [features.flatten()[:0].sum().to(model.device, dtype) for features in idle]  # also of what is not finite
    return sum(zeros, torch.zeros((), device=model.device, dtype=dtype))


def _trains(*modules: nn.Module) -> bool:
    return any(parameter.requires_grad for module in modules for parameter in module.parameters())


__all__ = ["zero_of_idle"]
