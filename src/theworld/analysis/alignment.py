"""Compares projected world tokens with the language model's other inputs: image tokens and text embeddings.

All three are taken as inputs of the language model: world tokens after the projector, image tokens after the vision
tower and Gemma's own projector, text embeddings scaled by sqrt(D) as in Gemma. A language model that was not trained on
them uses tokens of another scale or direction poorly (arXiv 2503.17349).

Shape legend: `M` images, `T = 1 + K` latent frames, `P` world tokens of a latent frame, `I` image tokens of an image,
`n` tokens of a kind, `D` language-model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from theworld.model import TheWorld
from theworld.model.configuration_theworld import check_world_steps
from theworld.model.fusion import fit_grid
from theworld.utils.devices import input_device
from theworld.utils.errors import TheWorldError

KINDS = ("world", "image", "text")


@dataclass(frozen=True)
class AlignmentTokens:
    """The tokens of three kinds, fp32 on the CPU.

    Args:
        world: (M, T, P, D).
        image: (M, I, D).
        text: (n, D), a sample of the vocabulary.
        grid: Rows and columns of the `P` world tokens.
    """

    world: Tensor
    image: Tensor
    text: Tensor
    grid: tuple[int, int]

    def of(self, kind: str) -> Tensor:
        """All tokens of one kind as (n, D)."""
        return {"world": self.world, "image": self.image, "text": self.text}[kind].flatten(0, -2)

    def sample(self, count: int, seed: int = 0) -> dict[str, Tensor]:
        """At most `count` tokens of each kind, the same number of every kind, so that measures are comparable."""
        generator = torch.Generator().manual_seed(seed)
        count = min(count, *(len(self.of(kind)) for kind in KINDS))
        picked = {kind: torch.randperm(len(self.of(kind)), generator=generator)[:count] for kind in KINDS}
        return {kind: self.of(kind)[picked[kind].sort().values] for kind in KINDS}

    def frames_of_sample(self, count: int, seed: int = 0) -> Tensor:
        """Latent frame of each world token of `sample`."""
        images, frames, places, _ = self.world.shape
        index = torch.arange(frames).repeat_interleave(places).repeat(images)[:, None, None, None]
        numbered = AlignmentTokens(index.view(images, frames, places, 1), self.image, self.text, self.grid)
        return numbered.sample(count, seed)["world"].flatten()


@torch.no_grad()
def collect_tokens(
    model: TheWorld,
    images: Sequence[Image.Image],
    num_world_steps: int | None = None,
    text_tokens: int = 2000,
    seed: int = 0,
) -> AlignmentTokens:
    """Run the frozen components on every image, one at a time.

    Args:
        num_world_steps: Future latent frames; `None` takes the config's.
        text_tokens: Size of the vocabulary's sample; special and unused tokens are left out.
        seed: Seed of that sample.

    Raises:
        ValueError: No image was given, the world is off, or `num_world_steps` is out of range.
    """
    encoder = model.model.world_encoder
    if encoder is None:
        raise TheWorldError("there are no world tokens to compare: load the model with enable_world=True")
    if not images:
        raise TheWorldError("no image to compare world and image tokens on: give at least one")
    steps = model.config.num_world_steps if num_world_steps is None else num_world_steps
    check_world_steps(steps, model.config.max_world_steps)
    device = input_device(model)
    world: list[Tensor] = []
    image: list[Tensor] = []
    for shown in images:
        latents = encoder.encode(model.processor.world_pixels(shown), steps)
        tokens = cast(Tensor, model.model.project_latents(latents).pooler_output)  # (1, T * P, D)
        world.append(tokens[0].unflatten(0, (1 + steps, -1)).float().cpu())
        pixels = model.processor.image_processor([shown], do_pan_and_scan=False, return_tensors="pt")["pixel_values"]
        seen = cast(Any, model.get_image_features)(pixels.to(device), return_dict=True).pooler_output
        image.append(seen[0].float().cpu())
    ids = ordinary_tokens(model, text_tokens, seed).to(device)
    text = model.get_input_embeddings()(ids).float().cpu()
    return AlignmentTokens(torch.stack(world), torch.stack(image), text, model.config.world_grid)


def ordinary_tokens(model: TheWorld, count: int, seed: int = 0) -> Tensor:
    """At most `count` random ids of the vocabulary, without special tokens, unused slots and single bytes."""
    tokenizer = model.processor.tokenizer
    special = set(tokenizer.all_special_ids)
    rows = cast(Any, model.get_input_embeddings()).weight.shape[0]
    ids = sorted(
        index
        for token, index in tokenizer.get_vocab().items()
        if index < rows and index not in special and not (token.startswith("<") and token.endswith(">"))
    )
    picked = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))[:count]
    return torch.tensor(ids)[picked.sort().values]


def effective_rank(tokens: Tensor) -> float:
    """Exp of the entropy of the normalised singular values of (n, D): 1 to min(n, D) directions in use.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007. 0 for all zeros.
    """
    values = torch.linalg.svdvals(tokens.double())
    if not bool(values.any()):
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def pairwise(first: Tensor, second: Tensor, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`measure` of every pair of two different tokens, flat; within one kind each pair once."""
    values = measure(first, second)
    if first is not second:
        return values.flatten()
    rows, columns = torch.triu_indices(len(first), len(first), offset=1)
    return values[rows, columns]


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """(n, D), (m, D) -> (n, m)."""
    return functional.normalize(first, dim=-1) @ functional.normalize(second, dim=-1).T


def distance(first: Tensor, second: Tensor) -> Tensor:
    """L2: (n, D), (m, D) -> (n, m)."""
    return torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")


def alignment_metrics(tokens: AlignmentTokens, count: int = 500, seed: int = 0) -> dict[str, Any]:
    """The numbers of the figure. All but `cosine_at_place` use `sampled` tokens of each kind.

    `effective_rank` is that of the tokens minus their mean. `cosine_at_place` compares world tokens of the current
    frame with image tokens of the same image and place, of other places of the image, and of the same place of other
    images. For a projector that keeps what is where, the first is the largest.
    """
    sample = tokens.sample(count, seed)
    pairs = [(kind, kind) for kind in KINDS] + list(combinations(KINDS, 2))
    centroids = {kind: tokens.of(kind).mean(0, keepdim=True) for kind in KINDS}
    return {
        "tokens": {kind: len(tokens.of(kind)) for kind in KINDS},
        "sampled": len(sample["world"]),
        "width": tokens.world.shape[-1],
        "magnitude": {kind: summary(sample[kind].norm(dim=-1)) for kind in KINDS},
        "effective_rank": {kind: effective_rank(sample[kind] - sample[kind].mean(0)) for kind in KINDS},
        "cosine": {f"{a}-{b}": summary(pairwise(sample[a], sample[b], cosine)) for a, b in pairs},
        "distance": {f"{a}-{b}": summary(pairwise(sample[a], sample[b], distance)) for a, b in pairs},
        "centroid_distance": {
            f"{a}-{b}": float(distance(centroids[a], centroids[b])) for a, b in combinations(KINDS, 2)
        },
        "centroid_cosine": {f"{a}-{b}": float(cosine(centroids[a], centroids[b])) for a, b in combinations(KINDS, 2)},
        "cosine_at_place": cosine_at_place(tokens),
    }


def cosine_at_place(tokens: AlignmentTokens) -> dict[str, float | None]:
    """Mean cosine similarity of world and image tokens, each minus the mean of its kind.

    For the same image and place, for other places of the image, and for the same place of other images (`None` for a
    single image).
    """
    side = math.isqrt(tokens.image.shape[1])
    image = fit_grid(tokens.image, (side, side), tokens.grid)  # (M, P, D)
    world = functional.normalize(tokens.world[:, 0] - tokens.world[:, 0].mean((0, 1)), dim=-1)
    image = functional.normalize(image - image.mean((0, 1)), dim=-1)
    similar = torch.einsum("mpd,nqd->mnpq", world, image)  # image m, place p with image n, place q
    images, places = world.shape[:2]
    same_image, same_place = torch.eye(images, dtype=torch.bool), torch.eye(places, dtype=torch.bool)
    return {
        "same_place": _mean(similar[same_image][:, same_place]),
        "other_place": _mean(similar[same_image][:, ~same_place]),
        "other_image": _mean(similar[~same_image][:, same_place]),
    }


def _mean(values: Tensor) -> float | None:
    return float(values.mean()) if values.numel() else None


def summary(values: Tensor) -> dict[str, float]:
    """Mean, standard deviation and quantiles."""
    quantiles = torch.tensor([0.05, 0.5, 0.95], dtype=values.dtype)
    low, middle, high = _quantiles(values, quantiles).tolist()
    spread = float(values.std()) if len(values) > 1 else 0.0
    return {"mean": float(values.mean()), "std": spread, "p5": low, "median": middle, "p95": high}


def _quantiles(values: Tensor, at: Tensor) -> Tensor:
    """Nearest quantiles by sorting: `torch.quantile` refuses more than 16 million values."""
    if not len(values):
        return torch.zeros_like(at)
    return values.sort().values[(at * (len(values) - 1)).round().long()]


__all__ = ["KINDS", "AlignmentTokens", "alignment_metrics", "collect_tokens", "effective_rank"]
