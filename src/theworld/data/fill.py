"""The loop that fills a latent cache, for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from .latent_cache import LatentCache

Encode = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def fill(
    cache: LatentCache, images: Iterable[tuple[bytes, torch.Tensor | None]], encode: Encode, together: int = 1
) -> tuple[int, int]:
    """Add the latents of images and clips that the cache lacks.

    Batches include images that the cache holds, so that a resumed run makes the same batches: the last bits of latents
    depend on the batch.

    Args:
        cache: The cache to fill. It is flushed after an error too.
        images: The content key of each, and its pixels: a frame (3, S, S) or a clip (F, 3, S, S). With `together=1`
            pixels may be `None` if the key is in the cache.
        encode: Latents (B, C, T, h, w) of frames (B, 3, S, S) or of clips (B, F, 3, S, S).
        together: Images in one batch.

    Returns the numbers of images that were encoded and that were in the cache; repeated images count each time.
    """
    # 1. Encode and add a batch
    encoded = count = 0
    seen: set[bytes] = set()
    waiting: dict[int, dict[bytes, torch.Tensor | None]] = {3: {}, 4: {}}  # frames and clips, by their dimensions

    def flush(batch: dict[bytes, torch.Tensor | None]) -> int:
        missing = [key for key in batch if key not in cache]
        if missing:
            pixels = [value for value in batch.values() if value is not None]
            for key, latents in zip(batch, encode(torch.stack(pixels)), strict=True):
                cache.add(key, latents)
        batch.clear()
        return len(missing)

    # 2. Form batches of frames and of clips
    try:
        for key, pixels in images:
            count += 1
            if key in seen or (together == 1 and key in cache):
                continue
            if together > 1:  # with one image per batch, the cache check above suffices
                seen.add(key)
            assert pixels is not None
            batch = waiting[pixels.ndim]
            batch[key] = pixels
            if len(batch) == together:
                encoded += flush(batch)
        encoded += sum(map(flush, waiting.values()))
    finally:
        cache.flush()
    return encoded, count - encoded
