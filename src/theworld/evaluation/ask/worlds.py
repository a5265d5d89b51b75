"""What stands in the place of the world tokens, arm by arm; every picture is encoded once, for all arms.

Shape legend: `M` pictures, `C` latent channels, `T = 1 + K` latent frames, `N` world tokens of one picture, `D` width,
`S` world image size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from theworld.data.fill import fill
from theworld.data.latent_cache import LatentCache, content_key
from theworld.data.schema import BadSample
from theworld.model import TheWorld
from theworld.model.projectors import PROJECTORS, WorldProjector
from theworld.model.world_encoders import cache_fingerprint
from theworld.utils.devices import input_device
from theworld.utils.errors import TheWorldError

from ..store.predictions import Item
from .arms import Arm
from .prompts import open_images


@dataclass
class Worlds:
    """The latents of a task's pictures by one model's encoder, and the world tokens that an arm makes of them.

    Args:
        model: Loaded with the number of steps to roll out in its config.
        items: Of the task.
        keys: Of the pictures of each item that could be opened, by the item's id.
        cache: Holds their latents.
        seed: Of the untrained projector, the noise, and who gets whose world.
    """

    model: TheWorld
    items: Sequence[Item]
    keys: dict[str, list[bytes]]
    cache: LatentCache
    seed: int = 0
    _donors: dict[str, str] = field(init=False, default_factory=dict[str, str])
    _untrained: list[WorldProjector] = field(init=False, default_factory=list[WorldProjector])

    @torch.no_grad()
    def tokens(self, items: Sequence[Item], arm: Arm, num_world_steps: int) -> torch.Tensor | None:
        """World tokens (M, N, D) of the pictures of `items` as `arm` has them; `None` if they have no picture.

        Raises:
            ValueError: There is no other picture to take a world from, or a picture opens now that did not before.
        """
        late = [item.id for item in items if item.id not in self.keys]
        if late:
            raise TheWorldError(
                f"item {late[0]!r}: its picture could not be opened at first: run the same command again"
            )
        keys = [key for item in items for key in self.keys[item.id]]
        if not keys:
            return None
        frames = 1 + num_world_steps
        latents = self.cache.get(keys)[:, :, :frames]  # (M, C, T, h, w); the present does not depend on the future
        if arm.world in ("other_image", "other_future"):
            others = self.cache.get([key for item in items for key in self._other_keys(item)])[:, :, :frames]
            own = 0 if arm.world == "other_image" else 1
            latents = torch.cat([latents[:, :, :own], others[:, :, own:]], dim=2)
        if arm.world == "random_projection":
            projector = self._untrained_projector()
            return projector(latents.to(projector.time_embedding.device))
        tokens = cast(torch.Tensor, self.model.model.project_latents(latents).pooler_output)  # (M, N, D)
        if arm.world == "zeros":
            return torch.zeros_like(tokens)
        if arm.world == "noise":
            parts = tokens.split([len(self.keys[item.id]) for item in items])
            return torch.cat([noise_like(part, self.seed, item.id) for part, item in zip(parts, items, strict=True)])
        return tokens

    def _other_keys(self, item: Item) -> list[bytes]:
        """As many pictures of another item as `item` has."""
        if not self._donors:
            self._donors = donors([item for item in self.items if self.keys.get(item.id)], self.keys, self.seed)
        theirs, count = self.keys[self._donors[item.id]], len(self.keys[item.id])
        return [theirs[place % len(theirs)] for place in range(count)]

    def _untrained_projector(self) -> WorldProjector:
        """The model's projector as it was before any training."""
        if not self._untrained:
            embed = cast(nn.Embedding, self.model.get_input_embeddings())
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                projector = PROJECTORS[self.model.config.projector](self.model.config)
                # The gain that training starts from; the trained one would already be fitted
                sample = embed(torch.arange(min(4096, embed.num_embeddings), device=input_device(self.model)))
                projector.initialise(sample.float().square().mean().sqrt().item())
            self._untrained.append(projector.to(sample.device, sample.dtype).eval())
        return self._untrained[0]


def encode_worlds(
    model: TheWorld, items: Sequence[Item], image_folder: Path | None, folder: Path, batch_size: int, seed: int = 0
) -> Worlds:
    """Encode every picture of `items` that is not in the latent cache at `folder`, and roll it out.

    Pictures go through the encoder in the same batches whatever is in the cache already, so that a run that was killed
    goes on with the same bits. Items with a picture that cannot be opened have no world.
    """
    encoder = model.model.world_encoder
    assert encoder is not None
    fingerprint = cache_fingerprint(encoder, model.config)
    keys: dict[str, list[bytes]] = {}

    def frames() -> Iterator[tuple[bytes, torch.Tensor]]:
        for item in tqdm(items, "world latents", unit="item"):
            try:
                pictures = open_images(item, image_folder)
            except BadSample:  # reported when it is asked
                continue
            pixels = model.processor.world_pixels(pictures) if pictures else ()  # each (3, S, S)
            keys[item.id] = [content_key(frame) for frame in pixels]
            yield from zip(keys[item.id], pixels, strict=True)

    steps = model.config.num_world_steps
    cache = LatentCache(folder, fingerprint, writable=True)
    fill(cache, frames(), lambda pixels: encoder.encode(pixels, steps), batch_size)
    return Worlds(model, items, keys, LatentCache(folder, fingerprint), seed)


def donors(items: Sequence[Item], keys: dict[str, list[bytes]], seed: int) -> dict[str, str]:
    """For each item, by id, another whose world it gets: of its family if it can be, never with its own picture.

    Items of a family stand in a random order with those that share a cluster side by side; each takes the one that
    stands as many places on as the largest cluster has items. So every world is taken once.

    Raises:
        ValueError: All items share one picture.
    """
    order = np.random.default_rng(seed).permutation(len(items))
    ranks = {items[place].cluster or items[place].id: rank for rank, place in enumerate(order)}
    ranked = sorted(items, key=lambda item: ranks[item.cluster or item.id])
    families: dict[str, list[Item]] = {}
    for item in ranked:
        families.setdefault(item.family, []).append(item)
    taken: dict[str, str] = {}
    for family in families.values():
        sizes: dict[str, int] = {}
        for item in family:
            sizes[item.cluster or item.id] = sizes.get(item.cluster or item.id, 0) + 1
        for place, item in enumerate(family):
            start = place + max(sizes.values())
            donor = _first_other(item, family, start, keys) or _first_other(item, ranked, place, keys)
            if donor is None:
                raise TheWorldError(
                    f"item {item.id!r} has no other picture to take a world from: leave other_image out"
                )
            taken[item.id] = donor.id
    return taken


def noise_like(tokens: torch.Tensor, seed: int, name: str) -> torch.Tensor:
    """Gaussian noise in place of `tokens` (M, N, D), each with its norm; the same for one `name` in any batch."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
    noise = torch.randn(tokens.shape, generator=generator).to(tokens.device)
    scale = tokens.float().norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return (noise * scale).to(tokens.dtype)


def _first_other(item: Item, items: Sequence[Item], start: int, keys: dict[str, list[bytes]]) -> Item | None:
    """The first of `items` from place `start` on, around the end, of another cluster and without a common picture."""
    for offset in range(len(items)):
        other = items[(start + offset) % len(items)]
        apart = other.id != item.id and (other.cluster != item.cluster or not item.cluster)
        if apart and not set(keys[other.id]) & set(keys[item.id]):
            return other
    return None


__all__ = ["Worlds", "donors", "encode_worlds", "noise_like"]
