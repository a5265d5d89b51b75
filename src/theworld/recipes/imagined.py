"""Decoded rollouts of an evaluated model, for the examples of its report."""

from __future__ import annotations

from functools import cache

from PIL import Image

from theworld.analysis.guardrail import can_show
from theworld.analysis.imagine import imagine
from theworld.evaluation.ask.arms import FULL
from theworld.evaluation.ask.prompts import open_images
from theworld.evaluation.report import Rollout
from theworld.evaluation.result import Result
from theworld.evaluation.run import load
from theworld.evaluation.store.predictions import Item
from theworld.utils.errors import one_line
from theworld.utils.logging import logger


def imagined_frames(result: Result) -> Rollout | None:
    """Return the `rollout` argument of `Result.report`: a function from an item to the decoded frames of its rollout.

    The model is loaded on the first call. The list of frames is empty if they cannot be decoded or may not be shown.

    Returns:
        The function, or `None` if the full model is not among the arms.
    """
    steps, settings = result.num_world_steps, result.settings
    if FULL not in result.predictions:
        return None
    model = cache(lambda: load(settings.model, settings, revision=settings.revision, num_world_steps=steps))

    def frames(item: Item) -> list[Image.Image]:
        encoder = model().model.world_encoder
        if encoder is None or not can_show(encoder, model().config.cosmos_subfolder):
            return []
        try:
            return imagine(model(), open_images(item, settings.source.image_folder)[0], steps)
        except ValueError as error:  # the guardrail may refuse one image; the report continues without it
            logger.warning("item %s: %s", item.id, one_line(error))
            return []

    return frames


__all__ = ["imagined_frames"]
