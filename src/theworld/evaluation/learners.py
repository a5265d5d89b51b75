"""Static learners: how well an outcome can be learned from labels and the asked image alone, without a rollout.

Several learners are fitted, so that the control is not weaker than a simple one, such as a kernel on pixels. Validation
images decide the settings of a learner and which learner answers a family.

Shapes: `n` images, `C` channels of pixels or of a latent, `h`, `w` its grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from operator import itemgetter
from typing import Any, cast

import torch
from torch import Tensor, nn

from theworld.utils.imports import require
from theworld.utils.logging import logger

Predict = Callable[[Tensor], Tensor]
"""Features (n, C, h, w) -> classes (n,)."""

Build = Callable[[int], nn.Module]
"""Number of classes -> a network that reads features."""

Fit = Callable[[Tensor, Tensor, int], Iterator[tuple[str, Predict]]]
"""`(features, labels (n,), seed)` -> pairs of a setting in words and the function fitted with it."""

BATCH = 128


@dataclass(frozen=True)
class Labelled:
    """Images of one family of questions."""

    # By name, (n, C, h, w): `pixels` from 0 to 1, `brightness` (the largest of the three channels, since colours are
    # shuffled), and `current latent` of the world encoder
    features: Mapping[str, Tensor]
    labels: Tensor  # classes (n,), from 0


def kernel_ridge(features: Tensor, labels: Tensor, seed: int) -> Iterator[tuple[str, Predict]]:
    """Ridge regression of the classes with Gaussian kernels; widths are multiples of the median squared distance."""
    require("eval", "sklearn")
    from sklearn.kernel_ridge import KernelRidge

    known, targets = features.flatten(1), nn.functional.one_hot(labels).double().numpy()  # (n, classes)
    squares = torch.cdist(known, known).square()  # shared by all settings
    median = squares.median().item()
    for width, ridge in product((0.25, 1.0, 4.0), (1e-3, 3e-2)):
        scale = width * median
        model = cast(Any, KernelRidge)(alpha=ridge, kernel="precomputed")
        model.fit((-squares / scale).exp().double().numpy(), targets)

        def predict(asked: Tensor, model: Any = model, scale: float = scale) -> Tensor:
            kernel = (-torch.cdist(asked.flatten(1), known).square() / scale).exp().double().numpy()
            return torch.from_numpy(model.predict(kernel)).argmax(1)

        yield f"width {width:g}, ridge {ridge:g}", predict


def networks(
    build: Build, steps: tuple[int, ...], decays: tuple[float, ...], features: Tensor, labels: Tensor, seed: int
) -> Iterator[tuple[str, Predict]]:
    """Trains the network `build(classes)` for every number of steps and every weight decay."""
    for count, decay in product(steps, decays):
        network = train_network(build, features, labels, steps=count, weight_decay=decay, seed=seed)
        yield f"{count} steps, weight decay {decay:g}", partial(predict_network, network)


def train_network(
    build: Build, features: Tensor, labels: Tensor, *, steps: int, weight_decay: float, seed: int
) -> nn.Module:
    """Train with cross-entropy, AdamW and a cosine schedule to zero. The same seed gives the same network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(int(labels.max()) + 1)
        network(features[:2])  # initialises lazy layers
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            picked = torch.randint(len(labels), (BATCH,))
            loss = nn.functional.cross_entropy(network(features[picked]), labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def predict_network(network: nn.Module, features: Tensor) -> Tensor:
    """Classes (n,) of features (n, C, h, w)."""
    return torch.cat([network(batch).argmax(1) for batch in features.split(500)])


def build_cnn(classes: int) -> nn.Module:
    """Three convolutions and a hidden layer, in channels-last layout: twice as fast on a CPU."""
    layers: list[nn.Module] = []
    for before, after, size in ((3, 32, 5), (32, 64, 3), (64, 64, 3)):
        layers += [nn.Conv2d(before, after, size, stride=2, padding=size // 2), nn.GELU()]
    convolutions = cast(Any, nn.Sequential(*layers)).to(memory_format=torch.channels_last)
    return nn.Sequential(
        convolutions, nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(128), nn.GELU(), nn.Linear(128, classes)
    )


def build_mlp(classes: int) -> nn.Module:
    """One hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(256), nn.GELU(), nn.Dropout(0.1), nn.Linear(256, classes))


LEARNERS: tuple[tuple[str, str, Fit], ...] = (
    ("kernel ridge", "pixels", kernel_ridge),
    ("kernel ridge", "brightness", kernel_ridge),
    ("CNN", "pixels", partial(networks, build_cnn, (1000,), (0.01, 0.3))),
    ("MLP", "current latent", partial(networks, build_mlp, (3000,), (0.05, 0.5))),
)
"""Name, features, and function that fits it."""


def best_learner(
    family: str, train: Labelled, validation: Labelled, seed: int = 0
) -> tuple[Callable[[Mapping[str, Tensor]], Tensor], list[dict[str, Any]]]:
    """Fit every learner of `LEARNERS` and choose the one with the highest accuracy on validation images.

    Returns:
        A function from features by name to classes (n,), and one row per learner: family, learner, features, setting,
        number of labels, accuracy on validation images, and whether it was chosen.
    """
    found: list[tuple[dict[str, Any], Predict]] = []
    for name, kind, fit in LEARNERS:
        tried = [
            ((predict(validation.features[kind]) == validation.labels).double().mean().item(), setting, predict)
            for setting, predict in fit(train.features[kind], train.labels, seed)
        ]
        right, setting, predict = max(tried, key=itemgetter(0))
        logger.info("static learner of %s: %s, %s: %.1f %% of validation", family, name, setting, 100 * right)
        row = {"family": family, "learner": name, "features": kind, "setting": setting, "labels": len(train.labels)}
        found.append(({**row, "validation_accuracy": right}, predict))
    best, choose = max(found, key=lambda one: one[0]["validation_accuracy"])
    return lambda features: choose(features[best["features"]]), [{**row, "chosen": row is best} for row, _ in found]
