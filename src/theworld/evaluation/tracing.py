"""Error tracing: does an answer follow the end of the rollout, even if the rollout is wrong?

A reader (a small classifier) is fitted on last latents of true videos and classifies last latents of rollouts. It is
cross-fitted: the reader of a scene was not fitted on that scene.

Shapes: `n` scenes, `m` rollouts, `C` latent channels, `h`, `w` the latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .learners import build_mlp, predict_network, train_network
from .stats.intervals import wilson

FOLDS = 5
STEPS = 800


def read_ends(
    true: Tensor,
    labels: Tensor,
    mirrored: tuple[Tensor, Tensor],
    imagined: Tensor,
    scenes: Sequence[int],
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Classes (n,) of true and (m,) of rolled-out last latents, each by a reader that was fitted on other scenes.

    Args:
        true: True last latents (n, C, h, w) of the labelled scenes.
        labels: Outcomes (n,) of these scenes, from 0.
        mirrored: Latents and outcomes of the mirrored scenes, in the same order. Readers are fitted on them too.
        imagined: Last latents (m, C, h, w) of rollouts.
        scenes: For each rollout, the index (m,) of its scene among the labelled ones.
        seed: Seed of the folds and of the readers.
    """
    folds = torch.from_numpy(np.random.default_rng(seed).permutation(len(true)) % FOLDS)
    seen, read = torch.empty_like(labels), torch.empty(len(imagined), dtype=labels.dtype)
    imagined_folds = folds[torch.tensor(scenes)]
    for fold in range(FOLDS):
        others, held, asked = folds != fold, folds == fold, imagined_folds == fold
        latents, places = (
            torch.cat([own[others], other[others]]) for own, other in zip((true, labels), mirrored, strict=True)
        )
        reader = train_network(build_mlp, latents, places, steps=STEPS, weight_decay=0.05, seed=seed)
        seen[held], read[asked] = predict_network(reader, true[held]), predict_network(reader, imagined[asked])
    return seen, read


def follow(truth: Sequence[str], imagined: Sequence[str], answers: Sequence[str | None]) -> dict[str, Any]:
    """How often rollout and answer are right, and which outcome an answer follows if the rollout is wrong.

    Args:
        truth: The true outcomes (m,).
        imagined: The outcomes (m,) that the rollouts show.
        answers: The parsed answers (m,); `None` if unparsed.

    Returns:
        `n`; `wrong`, the number of wrong rollouts; and shares with 95 % Wilson intervals: `imagined_right`,
        `answer_right`, `answer_is_imagined`, and over the wrong rollouts `wrong_follows_imagined` and
        `wrong_follows_truth`.
    """
    ends, told, said = np.array(truth), np.array(imagined), np.array([answer or "" for answer in answers])
    wrong = told != ends
    return {
        "n": len(ends),
        "imagined_right": share_of(~wrong),
        "answer_right": share_of(said == ends),
        "answer_is_imagined": share_of(said == told),
        "wrong": int(wrong.sum()),
        "wrong_follows_imagined": share_of((said == told)[wrong]),
        "wrong_follows_truth": share_of((said == ends)[wrong]),
    }


def share_of(hits: Any) -> dict[str, float] | None:
    """Share of true values with its 95 % Wilson interval; `None` if there are no values."""
    n, right = len(hits), int(sum(hits))
    if not n:
        return None
    low, high = wilson(right / n, n)
    return {"estimate": right / n, "low": low, "high": high, "n": n}
