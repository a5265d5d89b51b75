"""Metrics besides the loss: answers to closed questions, errors of latent frames, norms of gradients and weights.

Shape legend: `B` batch, `L` sequence, `S` supervised positions, `V` vocabulary, `n` allowed answers of a closed
question.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from theworld.constants import IGNORE_INDEX
from theworld.model.components import named_components

CHOICE_FIGURES = 3


def choice_figures(logits: Tensor, labels: Tensor, choice_ids: Tensor) -> Tensor:
    """Cross-entropy of the first answer token over the allowed answers.

    A row counts if its answer is one of its choices and no other choice begins with the same token.

    Args:
        logits: (S, V) at the supervised positions, row by row.
        labels: (B, L), -100 at positions that are not supervised.
        choice_ids: (B, n) first tokens of the allowed answers, padded with -1.

    Returns:
        (3,): summed loss, correct rows, counted rows.
    """
    targets = labels[:, 1:]
    supervised = targets != IGNORE_INDEX
    counts = supervised.sum(1)  # (B,)
    rows = counts > 0
    first = (counts.cumsum(0) - counts)[rows]
    choices = choice_ids[rows]
    answers = targets[rows].gather(1, supervised[rows].int().argmax(1, keepdim=True))  # (B', 1)
    matches = choices == answers
    counted = matches.sum(1) == 1
    scores = logits[first[counted]].float().gather(1, choices[counted].clamp(min=0))
    scores = scores.masked_fill(choices[counted] < 0, float("-inf"))
    truth = matches[counted].int().argmax(1)
    loss = nn.functional.cross_entropy(scores, truth, reduction="sum")
    return torch.stack([loss, (scores.argmax(1) == truth).sum(), counted.sum()]).detach()


def choice_logs(figures: Tensor, prefix: str = "") -> dict[str, float]:
    """`choice_loss` and `choice_accuracy` of summed `choice_figures`; empty without closed questions."""
    loss, correct, count = figures.tolist()
    return {f"{prefix}choice_loss": loss / count, f"{prefix}choice_accuracy": correct / count} if count else {}


def frame_logs(figures: Tensor, prefix: str = "") -> dict[str, float]:
    """Mean alignment errors `frame_0`, `frame_1`, ...

    `figures` (T + 1,) are the sums over steps, followed by the number of steps.
    """
    *errors, count = figures.tolist()
    return {f"{prefix}frame_{frame}": error / count for frame, error in enumerate(errors)} if count else {}


def trained_parameters(model: Any) -> dict[str, list[nn.Parameter]]:
    """The parameters that train, by component."""
    trained: dict[str, list[nn.Parameter]] = {}
    for _, component, parameter in named_components(model):
        if parameter.requires_grad:
            trained.setdefault(component, []).append(parameter)
    return trained


@torch.no_grad()
def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm of all values, including the shards of other processes."""
    norm = nn.utils.get_total_norm(tensors)
    return cast(Any, norm).full_tensor() if isinstance(norm, DTensor) else norm
