"""Two ways to ask a batch: compare the log-probabilities of the allowed answers, or let the model say something.

Shape legend: `M` images, `N` world tokens of one image, `D` width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from theworld.model import TheWorld
from theworld.model.answers import choice_logprobs, probabilities

from .prompts import Batch

DIGITS = 6  # of a log-probability that is written down
TINY = 1e-300  # probability that is still written as a logarithm


@dataclass(frozen=True)
class Answer:
    """What came back for one item: fields of its `Prediction`."""

    output: str  # what the model said, or the likeliest of the allowed answers
    choice_logprobs: dict[str, float] | None = None  # of every allowed answer, when they were compared


def choices(model: TheWorld, batch: Batch, world: torch.Tensor | None) -> list[Answer]:
    """The likeliest of the answers that each item allows, with the log-probability of every one.

    `world` are the world tokens (M, N, D) of the batch's images; `None` without a world.
    """
    known = choice_logprobs(model, batch.inputs, [item.choices for item in batch.items], **world_inputs(world))
    # The first of the likeliest, chosen before the digits are cut
    return [Answer(max(one, key=one.__getitem__), {c: round(v, DIGITS) for c, v in one.items()}) for one in known]


@torch.no_grad()
def generate(model: TheWorld, batch: Batch, world: torch.Tensor | None, max_new_tokens: int) -> list[Answer]:
    """What the model says by itself, greedily; see `choices` for `world`."""
    output = model.generate(**batch.inputs, **world_inputs(world), max_new_tokens=max_new_tokens, do_sample=False)
    said = output[:, batch.inputs["input_ids"].shape[1] :]
    return [Answer(text.strip()) for text in model.processor.batch_decode(said, skip_special_tokens=True)]


def joined(futures: Sequence[Answer]) -> Answer:
    """One answer from those of several futures: by the mean of the probabilities of choices, or the most frequent."""
    if len(futures) == 1:
        return futures[0]
    logprobs = [future.choice_logprobs for future in futures if future.choice_logprobs is not None]
    if not logprobs:
        return Answer(Counter(future.output for future in futures).most_common(1)[0][0])
    shares = probabilities(logprobs)
    mean = {choice: round(math.log(max(share, TINY)), DIGITS) for choice, share in shares.items()}
    return Answer(max(shares, key=shares.__getitem__), mean)


def world_inputs(world: torch.Tensor | None) -> dict[str, Any]:
    """World tokens (M, N, D) as what `forward` and `generate` take; without any, plain Gemma 3 is asked for."""
    if world is None:
        return {"use_world": False}
    return {"mm_encoder_outputs": {"world": BaseModelOutputWithPooling(pooler_output=cast(Any, world))}}


@contextmanager
def consumed_world_tokens(model: TheWorld) -> Generator[list[int]]:
    """Count, in a list of one number a call of the model, the world tokens that reached its embeddings."""
    counts: list[int] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        world = output.world_hidden_states
        counts.append(0 if world is None else world.shape[0] * world.shape[1])

    handle = model.model.register_forward_hook(note)
    try:
        yield counts
    finally:
        handle.remove()
