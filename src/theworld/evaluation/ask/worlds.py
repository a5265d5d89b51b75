"""What replaces the world tokens, arm by arm; every image is encoded once, for all arms.

Shape legend: `M` images, `C` latent channels, `T = 1 + K` latent frames, `N` world tokens of one image, `D` width,
`S` world image size, `F` frames of a clip.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from tqdm import tqdm

from theworld.data.fill import fill
from theworld.data.images import open_image
from theworld.data.latent_cache import LatentCache, content_key
from theworld.data.schema import BadSample
from theworld.model import TheWorld
from theworld.model.projectors import PROJECTORS, WorldProjector
from theworld.model.world_encoders import cache_fingerprint
from theworld.utils.devices import input_device
from theworld.utils.errors import TheWorldError

from ..store.predictions import Item
from ..tasks.base import by_family
from .arms import Arm
from .prompts import open_images


@dataclass
class Worlds:
    """The latents of a task's images by one model's encoder, and the world tokens that an arm makes of them."""

    model: TheWorld  # with the number of steps to roll out in its config
    items: Sequence[Item]
    keys: dict[str, list[bytes]]  # of the images of each item that could be opened, by the item's id
    cache: LatentCache  # their latents
    seed: int = 0  # of the untrained projector, the noise, and the choice of another item's world
    clips: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])  # keys of what truly happens

    @torch.no_grad()
    def tokens(self, items: Sequence[Item], arm: Arm, num_world_steps: int) -> torch.Tensor | None:
        """World tokens (M, N, D) of the images of `items` as `arm` has them; `None` if they have no image."""
        late = [item.id for item in items if item.id not in self.keys]
        if late:
            raise TheWorldError(f"item {late[0]!r}: its image could not be opened at first: run the same command again")
        if not any(self.keys[item.id] for item in items):
            return None
        return WORLD_SOURCES[arm.world](self, items, 1 + num_world_steps)

    def latents(self, items: Sequence[Item], frames: int, keys: dict[str, list[bytes]] | None = None) -> torch.Tensor:
        """What the encoder makes of the items' images, or of what has other `keys` (M, C, T, h, w), `T = frames`."""
        keys = self.keys if keys is None else keys
        return self.cache.get([key for item in items for key in keys.get(item.id, ())])[:, :, :frames]

    @cached_property
    def others(self) -> dict[str, list[bytes]]:
        """By item, the keys of another one's images, as many as it has of its own."""
        taken = donors([item for item in self.items if self.keys.get(item.id)], self.keys, self.seed)
        theirs = {id: self.keys[donor] for id, donor in taken.items()}
        return {id: [keys[n % len(keys)] for n in range(len(self.keys[id]))] for id, keys in theirs.items()}

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """World tokens (M, N, D) of latents (M, C, T, h, w)."""
        return cast(torch.Tensor, self.model.model.project_latents(latents).pooler_output)

    @cached_property
    def untrained_projector(self) -> WorldProjector:
        """The model's projector as it was before any training."""
        embed = cast(nn.Embedding, self.model.get_input_embeddings())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            projector = PROJECTORS[self.model.config.projector](self.model.config)
            # The gain that training starts from; the trained one would already be fitted
            sample = embed(torch.arange(min(4096, embed.num_embeddings), device=input_device(self.model)))
            projector.initialise(sample.float().square().mean().sqrt().item())
        return projector.to(sample.device, sample.dtype).eval()


def _noise(worlds: Worlds, items: Sequence[Item], frames: int) -> torch.Tensor:
    tokens = worlds.project(worlds.latents(items, frames)).split([len(worlds.keys[item.id]) for item in items])
    return torch.cat([noise_like(own, worlds.seed, item.id) for own, item in zip(tokens, items, strict=True)])


def _other_future(worlds: Worlds, items: Sequence[Item], frames: int) -> torch.Tensor:
    own, others = worlds.latents(items, 1), worlds.latents(items, frames, worlds.others)
    return worlds.project(torch.cat([own, others[:, :, 1:]], dim=2))


def _random_projection(worlds: Worlds, items: Sequence[Item], frames: int) -> torch.Tensor:
    projector = worlds.untrained_projector
    return projector(worlds.latents(items, frames).to(projector.time_embedding.device))


WORLD_SOURCES: dict[str, Callable[[Worlds, Sequence[Item], int], torch.Tensor]] = {
    "own": lambda worlds, items, frames: worlds.project(worlds.latents(items, frames)),
    "other_image": lambda worlds, items, frames: worlds.project(worlds.latents(items, frames, worlds.others)),
    "other_future": _other_future,
    "true_future": lambda worlds, items, frames: worlds.project(worlds.latents(items, frames, worlds.clips)),
    "random_projection": _random_projection,
    "zeros": lambda worlds, items, frames: torch.zeros_like(worlds.project(worlds.latents(items, frames))),
    "noise": _noise,
}
"""`Arm.world` -> world tokens (M, N, D) of the images of items, from `frames` latent frames.

`true_future` are the latents of what happens, from the item's clip. `noise` is Gaussian, each token of its own norm.
"""


def encode_worlds(
    model: TheWorld,
    items: Sequence[Item],
    image_folder: Path | None,
    folder: Path,
    batch_size: int,
    seed: int = 0,
    *,
    clips: bool = False,
) -> Worlds:
    """Encode every image of `items` that is not in the latent cache at `folder`, and roll it out.

    Images go through the encoder in the same batches whatever is in the cache already and however many processes share
    the work, so that a resumed run has the same bits. Items with an image that cannot be opened have no world. `clips`
    asks to encode what truly happens after each item's image as well.
    """
    encoder, state = model.model.world_encoder, PartialState()
    assert encoder is not None
    fingerprint, steps = cache_fingerprint(encoder, model.config), model.config.num_world_steps
    found = Worlds(model, items, {}, LatentCache(folder, fingerprint, writable=True), seed)
    frames = 1 + steps * encoder.temporal_compression

    def pixels() -> Iterator[tuple[bytes, torch.Tensor]]:
        """Frames (3, S, S) and clips (F, 3, S, S) of the batches that this process encodes."""
        numbers: dict[int, dict[bytes, int]] = {3: {}, 4: {}}  # of every frame and of every clip, in order
        for item in tqdm(items, "world latents", unit="item", disable=not state.is_main_process):
            try:
                images = open_images(item, image_folder)
                # Where the clip ends, its last frame is repeated
                after = [item.clip[min(item.frame + place, len(item.clip) - 1)] for place in range(frames * clips)]
                true = [open_image(frame, image_folder) for frame in after]
            except BadSample:  # reported when it is asked
                continue
            own = list(model.processor.world_pixels(images)) if images else []
            clip = [torch.stack(list(model.processor.world_pixels(true)))] if true else []
            found.keys[item.id], found.clips[item.id] = [*map(content_key, own)], [*map(content_key, clip)]
            for one in (*own, *clip):
                key, known = content_key(one), numbers[one.ndim]
                if known.setdefault(key, len(known)) // batch_size % state.num_processes == state.process_index:
                    yield key, one

    def encode(batch: torch.Tensor) -> torch.Tensor:
        return encoder.encode_clip(batch.transpose(1, 2)) if batch.ndim == 5 else encoder.encode(batch, steps)

    fill(found.cache, pixels(), encode, batch_size)
    state.wait_for_everyone()
    found.cache = LatentCache(folder, fingerprint)
    return found


def donors(items: Sequence[Item], keys: dict[str, list[bytes]], seed: int) -> dict[str, str]:
    """For each item, by id, another whose world it gets: of its family if it can be, never with its own image.

    Items of a family stand in a random order with those that share a cluster side by side; each takes the one that
    stands as many places on as the largest cluster has items. So every world is taken once. It is an error if all items
    share one image.
    """
    order = np.random.default_rng(seed).permutation(len(items))
    ranks = {items[place].cluster or items[place].id: rank for rank, place in enumerate(order)}
    ranked = sorted(items, key=lambda item: ranks[item.cluster or item.id])
    taken: dict[str, str] = {}
    for family in by_family(ranked).values():
        largest = max(Counter(item.cluster or item.id for item in family).values())
        for place, item in enumerate(family):
            donor = _first_other(item, family, place + largest, keys) or _first_other(item, ranked, place, keys)
            if donor is None:
                raise TheWorldError(f"item {item.id!r} has no other image to take a world from: leave other_image out")
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
    """The first of `items` from place `start` on, around the end, of another cluster and without a common image."""
    for offset in range(len(items)):
        other = items[(start + offset) % len(items)]
        apart = other.id != item.id and (other.cluster != item.cluster or not item.cluster)
        if apart and not set(keys[other.id]) & set(keys[item.id]):
            return other
    return None
