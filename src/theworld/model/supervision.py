"""The head on the supervised positions only: a prompt's logits would be gigabytes that no loss reads.

Shape legend: `B` batch, `L` sequence, `S` supervised tokens of the batch, `D` language-model width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from theworld.constants import IGNORE_INDEX


def select_supervised(hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (S, D) of (B, L, D) whose next token is supervised, and those tokens (S,), in reading order."""
    targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)  # (B, L)
    supervised = targets != IGNORE_INDEX
    return hidden[supervised.to(hidden.device)], targets[supervised]


def zero_of(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """An exact 0 with every parameter that trains in its graph: DistributedDataParallel awaits all gradients.

    A sharded parameter (`DTensor`) is left out: nothing awaits it alone.
    """
    trainable = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]
    zeros = [parameter.reshape(-1)[:0].sum().float() for parameter in trainable]
    return sum((zero.to(zeros[0].device) for zero in zeros[1:]), zeros[0]) if zeros else torch.zeros(())


__all__ = ["select_supervised", "zero_of"]
