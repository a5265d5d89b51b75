"""World tokens of each arm. Every image is encoded once for all arms.

Shape legend: `M` images, `C` latent channels, `T = 1 + K` latent frames, `N` world tokens of one image, `D` width,
`S` world image size, `F` frames of a clip.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, cycle, islice
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


class NoOtherImage(TheWorldError):
    """Raised if an item has no other item with a different image to take a world from."""


@dataclass
class Worlds:
    """Latents of a task's images by one model's encoder, and the world tokens of an arm from them."""

    model: TheWorld  # its config holds the number of steps to roll out
    items: Sequence[Item]
    keys: dict[str, list[bytes]]  # cache keys of each item's images by item id; items that could not be opened lack one
    cache: LatentCache  # latents by key
    seed: int = 0  # of the untrained projector, the noise, and the assignment of other items' worlds
    clips: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])  # cache keys of the true clips

    @torch.no_grad()
    def tokens(self, items: Sequence[Item], arm: Arm, num_world_steps: int) -> torch.Tensor | None:
        """World tokens (M, N, D) of the images of `items` in `arm`; `None` if there are no images."""
        late = [item.id for item in items if item.id not in self.keys]
        if late:
            raise TheWorldError(f"item {late[0]!r}: its image could not be opened at first: run the same command again")
        if not any(self.keys[item.id] for item in items):
            return None
        return WORLD_SOURCES[arm.world](self, items, 1 + num_world_steps)

    def latents(self, items: Sequence[Item], frames: int, keys: dict[str, list[bytes]] | None = None) -> torch.Tensor:
        """Latents (M, C, T, h, w) of the items' images, or of the entries with other `keys`; `T = frames`."""
        keys = self.keys if keys is None else keys
        return self.cache.get([key for item in items for key in keys.get(item.id, ())])[:, :, :frames]

    @cached_property
    def others(self) -> dict[str, list[bytes]]:
        """By item id, keys of another item's images, as many as the item has. Raises `NoOtherImage`."""
        taken = donors([item for item in self.items if self.keys.get(item.id)], self.keys, self.seed)
        return {id: list(islice(cycle(self.keys[donor]), len(self.keys[id]))) for id, donor in taken.items()}

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """World tokens (M, N, D) of latents (M, C, T, h, w)."""
        return cast(torch.Tensor, self.model.model.project_latents(latents).pooler_output)

    @cached_property
    def untrained_projector(self) -> WorldProjector:
        """A newly initialised projector with the model's config."""
        embed = cast(nn.Embedding, self.model.get_input_embeddings())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            projector = PROJECTORS[self.model.config.projector](self.model.config)
            # The initial output gain, computed from the embeddings as at the start of training
            sample = embed(torch.arange(min(4096, embed.num_embeddings), device=input_device(self.model)))
            projector.initialise(sample.float().square().mean().sqrt().item())
        return projector.to(sample.device, sample.dtype).eval()


def _own(worlds: Worlds, items: Sequence[Item], frames: int) -> torch.Tensor:
    return worlds.project(worlds.latents(items, frames))


def _noise(worlds: Worlds, items: Sequence[Item], frames: int) -> torch.Tensor:
    tokens = _own(worlds, items, frames).split([len(worlds.keys[item.id]) for item in items])
    return torch.cat([noise_like(own, worlds.seed, item.id) for own, item in zip(tokens, items, strict=True)])


def _other_future(worlds: Worlds, items: Sequence[Item], frames: int) -> torch.Tensor:
    own, others = worlds.latents(items, 1), worlds.latents(items, frames, worlds.others)
    return worlds.project(torch.cat([own, others[:, :, 1:]], dim=2))


def _random_projection(worlds: Worlds, items: Sequence[Item], frames: int) -> torch.Tensor:
    projector = worlds.untrained_projector
    return projector(worlds.latents(items, frames).to(projector.time_embedding.device))


WORLD_SOURCES: dict[str, Callable[[Worlds, Sequence[Item], int], torch.Tensor]] = {
    "own": _own,
    "other_image": lambda worlds, items, frames: worlds.project(worlds.latents(items, frames, worlds.others)),
    "other_future": _other_future,
    "true_future": lambda worlds, items, frames: worlds.project(worlds.latents(items, frames, worlds.clips)),
    "random_projection": _random_projection,
    "zeros": lambda worlds, items, frames: torch.zeros_like(_own(worlds, items, frames)),
    "noise": _noise,
}
"""`Arm.world` -> function `(worlds, items, frames)` to world tokens (M, N, D) of the items' images, `T = frames`.

`true_future` uses latents of the item's clip. `noise` is Gaussian; each token has the norm of the token it replaces.
"""

OF_OTHERS = ("other_image", "other_future")
"""Keys that use another item's world."""


def encode_worlds(
    model: TheWorld,
    items: Sequence[Item],
    image_folder: Path | None,
    folder: Path,
    batch_size: int,
    seed: int = 0,
    *,
    clips: bool = False,
    future: int = 0,
) -> Worlds:
    """Encode and roll out every image of `items` that is not in the latent cache at `folder`.

    The batches of the encoder do not depend on the contents of the cache or the number of processes, so a resumed run
    gives the same bits. Items with an image that cannot be opened get no world.

    Args:
        items: The items of a task.
        image_folder: Folder of relative image names.
        folder: Folder of the latent cache.
        batch_size: Images per batch of the encoder.
        seed: Seed of `Worlds`.
        clips: Also encode the true clip that starts at each item's frame.
        future: Index of the future; it is added to the seed of the rollout.
    """
    # 1. Open the cache of this encoder, number of steps and rollout seed
    encoder, state = model.model.world_encoder, PartialState()
    assert encoder is not None
    fingerprint, steps = cache_fingerprint(encoder, model.config), model.config.num_world_steps
    rollout_seed = model.config.world_seed + future if future else None
    fingerprint |= {"seed": rollout_seed} if future else {}
    found = Worlds(model, items, {}, LatentCache(folder, fingerprint, writable=True), seed)
    frames = 1 + steps * encoder.temporal_compression

    def pixels() -> Iterator[tuple[bytes, torch.Tensor]]:
        """Frames (3, S, S) and clips (F, 3, S, S) of the batches that this process encodes."""
        numbers: dict[int, dict[bytes, int]] = {3: {}, 4: {}}  # index of every distinct frame and clip, by `ndim`
        for item in tqdm(items, "world latents", unit="item", disable=not state.is_main_process):
            try:
                images = open_images(item, image_folder)
                # Where the clip ends, its last frame is repeated
                after = [item.clip[min(item.frame + place, len(item.clip) - 1)] for place in range(frames * clips)]
                true = [open_image(frame, image_folder) for frame in after]
            except BadSample:  # reported when the item is asked
                continue
            own = list(model.processor.world_pixels(images)) if images else []
            clip = [torch.stack(list(model.processor.world_pixels(true)))] if true else []
            found.keys[item.id], found.clips[item.id] = [*map(content_key, own)], [*map(content_key, clip)]
            for one in (*own, *clip):
                key, known = content_key(one), numbers[one.ndim]
                if known.setdefault(key, len(known)) // batch_size % state.num_processes == state.process_index:
                    yield key, one

    def encode(batch: torch.Tensor) -> torch.Tensor:
        if batch.ndim == 5:
            return encoder.encode_clip(batch.transpose(1, 2))
        return encoder.encode(batch, steps, rollout_seed)

    # 2. Encode this process's share, then read what all processes wrote
    fill(found.cache, pixels(), encode, batch_size)
    state.wait_for_everyone()
    found.cache = LatentCache(folder, fingerprint)
    return found


def donors(items: Sequence[Item], keys: dict[str, list[bytes]], seed: int) -> dict[str, str]:
    """By item id, another item whose world it gets: of the same family if possible, never with the same image.

    Within a family, items are in random order with clusters kept together. An item gets the world of the item
    `largest` places ahead, where `largest` is the size of the largest cluster, so every world is used once. If that
    item shares its cluster or an image, the next one that does not is used.

    Raises:
        NoOtherImage: An item shares its cluster or an image with all others.
    """
    cluster = {item.id: item.cluster or item.id for item in items}
    order = np.random.default_rng(seed).permutation(len(items))
    ranks = {cluster[items[place].id]: rank for rank, place in enumerate(order)}
    ranked = sorted(items, key=lambda item: ranks[cluster[item.id]])
    taken: dict[str, str] = {}
    for family in by_family(ranked).values():
        largest = max(Counter(cluster[item.id] for item in family).values())
        for place, item in enumerate(family):
            further = (place + largest) % len(family)
            for other in chain(family[further:], family[:further], ranked[place:], ranked[:place]):
                if cluster[other.id] != cluster[item.id] and not set(keys[other.id]) & set(keys[item.id]):
                    taken[item.id] = other.id
                    break
            else:
                raise NoOtherImage(f"item {item.id!r} has no other image to take a world from")
    return taken


def noise_like(tokens: torch.Tensor, seed: int, name: str) -> torch.Tensor:
    """Gaussian noise (M, N, D) with the norm of each token of `tokens`. It depends only on `seed` and `name`."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
    noise = torch.randn(tokens.shape, generator=generator).to(tokens.device)
    scale = tokens.float().norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return (noise * scale).to(tokens.dtype)
