"""Objectives of training: for each, the model that computes the loss and the collator that makes its batches."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theworld.data.collator import TheWorldCollator
from theworld.data.latent_cache import LatentCache
from theworld.model import TheWorld
from theworld.model.configuration_theworld import check_world_steps
from theworld.model.world_encoders import cache_fingerprint

from .align import AlignCollator, AlignModel
from .config import TrainingConfig


@dataclass(frozen=True)
class Objective:
    """An entry of `OBJECTIVES`; `model_keys` are config keys that its model is loaded with."""

    model_class: type[TheWorld]
    collator: Callable[[TrainingConfig, TheWorld], Any]
    model_keys: tuple[str, ...] = ()


def answers_collator(config: TrainingConfig, model: TheWorld) -> TheWorldCollator:
    """Batches whose labels are the answers."""
    drawn = config.train_world_steps or ()
    for steps in drawn:
        check_world_steps(steps, model.config.max_world_steps)
    return TheWorldCollator(
        model.processor,
        max_length=config.max_seq_length,
        padding_side=config.padding,
        overlong=config.overlong,
        drawn_world_steps=drawn,
        **_sources(config, model),
    )


def align_collator(config: TrainingConfig, model: TheWorld) -> AlignCollator:
    """Batches of clips."""
    return AlignCollator(
        model.processor,
        num_world_steps=config.num_world_steps,
        frames_per_step=model.config.world_temporal_compression,
        true_future_share=config.true_future_share,
        **_sources(config, model),
    )


def _sources(config: TrainingConfig, model: TheWorld) -> dict[str, Any]:
    """Arguments of both collators: the image folder, and the cache of latents of `model`'s encoder."""
    sources: dict[str, Any] = {}
    if config.image_folder is not None:
        sources["image_folder"] = Path(config.image_folder).expanduser()
    if config.latent_cache is not None:
        assert model.model.world_encoder is not None
        fingerprint = cache_fingerprint(model.model.world_encoder, model.config)
        sources["latent_cache"] = LatentCache(config.latent_cache, fingerprint)
    return sources


OBJECTIVES: dict[str, Objective] = {
    "answers": Objective(TheWorld, answers_collator),
    "align": Objective(AlignModel, align_collator, ("true_future_share",)),
}
