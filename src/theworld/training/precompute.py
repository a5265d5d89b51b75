"""Every picture of a run through the frozen world encoder once, into the latent cache.

The pictures are those that the run's own collator hands to the model. Each is encoded alone, as a training step does
it, so that the loss with the cache is the loss without it, bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from theworld.data.latent_cache import LatentCache, content_key, drop_damaged
from theworld.data.schema import Example, Skipped
from theworld.data.skips import SkipLog
from theworld.data.sources.hf_dataset import StreamedRows
from theworld.model.world_encoders import WorldEncoder, cache_fingerprint

from .config import TrainingConfig
from .latents import check_cacheable
from .objectives import OBJECTIVES
from .run import load_data, start_of
from .stages import load_model

Collate = Callable[[list[Example | Skipped]], dict[str, Any]]


@dataclass(frozen=True)
class PrecomputeResult:
    """What was done.

    Args:
        folder: Where the latents lie.
        rows: Rows looked at.
        computed: Pictures encoded.
        present: Pictures whose latents were there; each counts as often as it comes.
        repaired: Latents that were damaged, and were deleted to be computed again.
        skipped: Rows that gave no example.
        skip_causes: Those by cause, a line each.
    """

    folder: str
    rows: int
    computed: int
    present: int
    repaired: int
    skipped: int
    skip_causes: str


class Share(Dataset["Example | Skipped | None"]):
    """One process's rows of an indexed source: rows of one picture go to one process, others are `None`.

    Args:
        rows: All of them.
        rank: This process's number.
        world_size: Number of processes.
    """

    def __init__(self, rows: Any, rank: int, world_size: int) -> None:
        self.rows = rows
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example | Skipped | None:
        row = self.rows[index]
        pictures: tuple[Any, ...] = (row.images or row.clip) if isinstance(row, Example) else ()
        named = pictures and isinstance(pictures[0], str | Path)
        number = zlib.crc32(str(pictures[0]).encode()) if named else index
        return row if number % self.world_size == self.rank else None


class Pictures:
    """One row -> the pixels that the encoder sees, each with its key, and what was skipped.

    Args:
        collate: The run's collator, without a cache.
        cache: What is in it needs no pixels.
    """

    def __init__(self, collate: Collate, cache: LatentCache) -> None:
        self.collate = collate
        self.cache = cache

    def __call__(
        self, rows: list[Example | Skipped | None]
    ) -> tuple[int, dict[bytes, torch.Tensor | None], list[Skipped]]:
        mine = [row for row in rows if row is not None]
        if not mine:
            return 0, {}, []
        batch = self.collate(mine)
        pixels = {content_key(picture): picture for picture in pictures_of(batch)}
        return len(mine), {key: None if key in self.cache else pixels[key] for key in pixels}, batch["skipped"]


def pictures_of(batch: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Frames (3, S, S) and clips (F, 3, S, S) that the world encoder is asked for."""
    yield from batch.get("world_pixel_values", ())
    yield from batch.get("clip_pixel_values", ())


@torch.no_grad()
def encode(encoder: WorldEncoder, pixels: torch.Tensor, num_world_steps: int) -> torch.Tensor:
    """Latents (B, C, T, h, w) of frames (B, 3, S, S) and their rollouts, or of clips (B, F, 3, S, S)."""
    if pixels.ndim == 5:
        return encoder.encode_clip(pixels.transpose(1, 2))
    return encoder.encode(pixels, num_world_steps)


def precompute(config: TrainingConfig, *, together: int = 1) -> PrecomputeResult:
    """Fill `config.latent_cache` for the training and evaluation data; what is there already is left alone.

    Several processes (torchrun, `accelerate launch`) take a share each. Killed at any time, it goes on where it was.
    Rows that cannot be used are listed in `<output_dir>/precompute/`.

    Args:
        config: The run.
        together: Pictures encoded in one batch. Several are faster on small models, and the last bits of their latents
            then are not those of a training step without the cache.

    Raises:
        ValueError: The config has no cache or no frozen world, the data cannot be used, or more rows are skipped than
            `skip_budget` allows.
        FileNotFoundError: A file or folder is missing.
        OSError: The disk is full.
    """
    check_cacheable(config)
    state = PartialState()
    data = {"skipped.jsonl": load_data(config, config.train_dataset_path, config.split)}
    if config.do_eval:
        data["skipped_eval.jsonl"] = load_data(config, config.eval_dataset_path, config.eval_split)
    objective = OBJECTIVES[config.objective]
    model = load_model(config, start_of(config, None), objective.model_class, objective.model_keys)
    encoder = model.model.world_encoder
    assert encoder is not None
    assert config.latent_cache is not None
    encoder.to(state.device)
    fingerprint = cache_fingerprint(encoder, model.config)
    repaired = drop_damaged(config.latent_cache, fingerprint) if state.is_main_process else 0
    state.wait_for_everyone()
    cache = LatentCache(config.latent_cache, fingerprint, writable=True)
    pictures = Pictures(objective.collator(replace(config, latent_cache=None), model), cache)
    filler = Filler(cache, encoder, model.config.num_world_steps, config.num_workers, together)
    logs = [filler.fill(rows, pictures, skip_log(config, name, rows)) for name, rows in data.items()]
    counts = [sum(numbers) for numbers in zip(*gather_object([filler.counts]), strict=True)]
    return PrecomputeResult(
        str(cache.path),
        *counts,
        repaired=repaired,
        skipped=sum(map(len, logs)),
        skip_causes="\n".join(filter(None, (log.summary() for log in logs))),
    )


def skip_log(config: TrainingConfig, name: str, rows: Any) -> SkipLog:
    """A fresh list of what this pass over `rows` skips: a picture that was repaired no longer counts."""
    path = Path(config.output_dir) / "precompute" / name
    if PartialState().is_main_process:
        path.unlink(missing_ok=True)
    return SkipLog(path, config.skip_budget, len(rows) if isinstance(rows, Sized) else None)


class Filler:
    """This process's part of the work.

    Args:
        cache: Where latents go.
        encoder: What makes them.
        num_world_steps: Future latent frames.
        num_workers: Processes that open pictures.
        together: Pictures encoded in one batch.
    """

    def __init__(
        self, cache: LatentCache, encoder: WorldEncoder, num_world_steps: int, num_workers: int, together: int = 1
    ) -> None:
        self.cache = cache
        self.encoder = encoder
        self.num_world_steps = num_world_steps
        self.num_workers = num_workers
        self.together = together
        self.waiting: dict[bytes, torch.Tensor] = {}
        self.counts = (0, 0, 0)

    def fill(self, rows: Any, pictures: Pictures, log: SkipLog) -> SkipLog:
        """Encode what `rows` need and is not there. Every process calls it; the first one keeps the list of skips.

        Raises:
            ValueError: More rows are skipped than the budget allows.
            OSError: The disk is full.
        """
        state = PartialState()
        elsewhere: list[Skipped] = []
        share = share_of(rows, state.process_index, state.num_processes)
        loader = DataLoader(share, batch_size=1, collate_fn=pictures, num_workers=self.num_workers)
        total = len(share) if isinstance(share, Sized) else None
        disable = None if state.is_main_process else True  # None shows it on a terminal alone
        try:
            for count, found, skipped in tqdm(loader, "precompute", total, disable=disable):
                self._encode(count, found)
                if state.is_main_process:
                    log.seen(count)
                    log.record(skipped)
                else:
                    elsewhere += skipped
            self._encode_waiting()
        finally:
            self.cache.flush()
        others = gather_object(elsewhere)
        if state.is_main_process:
            log.record(others)
        return log

    def _encode(self, count: int, found: dict[bytes, torch.Tensor | None]) -> None:
        rows, computed, present = self.counts
        for key, pixels in found.items():
            if pixels is None or key in self.cache or key in self.waiting:
                present += 1
            else:
                self.waiting[key] = pixels
                computed += 1
        self.counts = rows + count, computed, present
        if len(self.waiting) >= self.together:
            self._encode_waiting()

    def _encode_waiting(self) -> None:
        """Add the latents of what waits, frames and clips each `together` at a time."""
        waiting, self.waiting = self.waiting, {}
        for dimensions in (3, 4):  # of a frame, of a clip
            keys = [key for key, pixels in waiting.items() if pixels.ndim == dimensions]
            for start in range(0, len(keys), self.together):
                batch = keys[start : start + self.together]
                latents = encode(self.encoder, torch.stack([waiting[key] for key in batch]), self.num_world_steps)
                for key, value in zip(batch, latents, strict=True):
                    self.cache.add(key, value)


def share_of(rows: Any, rank: int, world_size: int) -> Any:
    """What process `rank` of `world_size` reads of a source."""
    if isinstance(rows, StreamedRows):
        return rows.split_by_process(rank, world_size) if world_size > 1 else rows
    return Share(rows, rank, world_size)


__all__ = ["PrecomputeResult", "precompute"]
