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

from theworld.data.fill import fill
from theworld.data.latent_cache import LatentCache, content_key, drop_damaged
from theworld.data.schema import Example, Message, Skipped
from theworld.data.skips import SkipLog
from theworld.data.sources.hf_dataset import StreamedRows
from theworld.model.world_encoders import WorldEncoder, cache_fingerprint

from .config import TrainingConfig
from .objectives import OBJECTIVES
from .resume import locked
from .rows import load_rows
from .run import SKIPPED, SKIPPED_EVAL
from .stages import load_model
from .streams import dead_workers_named

FOLDER = "precompute"  # of the run folder
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
        keep_pixels: Give them all the same.
    """

    def __init__(self, collate: Collate, cache: LatentCache, *, keep_pixels: bool = False) -> None:
        self.collate = collate
        self.cache = cache
        self.keep_pixels = keep_pixels

    def __call__(
        self, rows: list[Example | Skipped | None]
    ) -> tuple[int, dict[bytes, torch.Tensor | None], list[Skipped]]:
        mine = [_asked(row) for row in rows if row is not None]
        if not mine:
            return 0, {}, []
        batch = self.collate(mine)
        pixels = {content_key(picture): picture for picture in pictures_of(batch)}
        known = [key for key in pixels if not self.keep_pixels and key in self.cache]
        return len(mine), {**pixels, **dict.fromkeys(known)}, batch["skipped"]


def _asked(row: Example | Skipped) -> Example | Skipped:
    """A row of images alone with a question and an answer, which the collator expects: only its pixels matter."""
    if isinstance(row, Skipped) or row.messages or not row.images or row.clip:
        return row
    return replace(row, messages=(Message("user", "-"), Message("assistant", "-")))


def pictures_of(batch: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Frames (3, S, S) and clips (F, 3, S, S) that the world encoder is asked for."""
    yield from batch.get("world_pixel_values", ())
    yield from batch.get("clip_pixel_values", ())


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
    if config.latent_cache is None:
        raise ValueError("latent_cache is not set: name the folder of the latents, as in --latent_cache latents")
    state = PartialState(cpu=not torch.accelerator.is_available())  # unsaid, CPU processes each run alone
    with locked(Path(config.output_dir) / FOLDER, is_main=state.is_main_process):
        return _precompute(config, state, together)


def _precompute(config: TrainingConfig, state: PartialState, together: int) -> PrecomputeResult:
    # 1. Data and model; one pass over a stream needs no number of steps
    one_pass = replace(config, max_steps=config.max_steps or 1)
    data = {SKIPPED: load_rows(one_pass)}
    if config.do_eval:
        data[SKIPPED_EVAL] = load_rows(one_pass, evaluation=True)
    objective = OBJECTIVES[config.objective]
    model = load_model(config, config.model_name, objective.model_class, objective.model_keys)
    encoder = model.model.world_encoder
    assert encoder is not None
    assert config.latent_cache is not None
    encoder.to(state.device)
    # 2. The cache, without what is damaged
    fingerprint = cache_fingerprint(encoder, model.config)
    repaired = drop_damaged(config.latent_cache, fingerprint, state.process_index, state.num_processes)
    state.wait_for_everyone()
    cache = LatentCache(config.latent_cache, fingerprint, writable=True)
    # 3. Every row of this process's share
    collator = objective.collator(replace(config, latent_cache=None), model)
    pictures = Pictures(collator, cache, keep_pixels=together > 1)
    rows, logs = 0, list[SkipLog]()

    def images() -> Iterator[tuple[bytes, torch.Tensor | None]]:
        nonlocal rows
        for name, source in data.items():
            logs.append(skip_log(config, name, source))
            for count, found in read_share(source, pictures, logs[-1], config.num_workers):
                rows += count
                yield from found.items()

    computed, present = fill(
        cache, images(), lambda pixels: encode(encoder, pixels, model.config.num_world_steps), together
    )
    counts = [sum(numbers) for numbers in zip(*gather_object([(rows, computed, present, repaired)]), strict=True)]
    return PrecomputeResult(
        str(cache.path),
        *counts,
        skipped=sum(map(len, logs)),
        skip_causes="\n".join(filter(None, (log.summary() for log in logs))),
    )


def skip_log(config: TrainingConfig, name: str, rows: Any) -> SkipLog:
    """A fresh list of what this pass over `rows` skips: a picture that was repaired no longer counts."""
    path = Path(config.output_dir) / FOLDER / name
    if PartialState().is_main_process:
        path.unlink(missing_ok=True)
    return SkipLog(path, config.skip_budget, len(rows) if isinstance(rows, Sized) else None)


def read_share(
    rows: Any, pictures: Pictures, log: SkipLog, num_workers: int
) -> Iterator[tuple[int, dict[bytes, torch.Tensor | None]]]:
    """Rows of this process's share, and their images. Every process calls it; the first one keeps the list of skips.

    Raises:
        ValueError: More rows are skipped than the budget allows.
        OSError: A process that loads data died.
    """
    state = PartialState()
    elsewhere: list[Skipped] = []
    share = share_of(rows, state.process_index, state.num_processes)
    loader = DataLoader(share, batch_size=1, collate_fn=pictures, num_workers=num_workers)
    total = len(share) if isinstance(share, Sized) else None
    disable = None if state.is_main_process else True  # None shows it on a terminal alone
    with dead_workers_named():
        for count, found, skipped in tqdm(loader, "precompute", total, disable=disable):
            yield count, found
            if state.is_main_process:
                log.seen(count)
                log.record(skipped)
            else:
                elsewhere += skipped
    others = gather_object(elsewhere)
    if state.is_main_process:
        log.record(others)


def share_of(rows: Any, rank: int, world_size: int) -> Any:
    """What process `rank` of `world_size` reads of a source."""
    if isinstance(rows, StreamedRows):
        return rows.split_by_process(rank, world_size) if world_size > 1 else rows
    return Share(rows, rank, world_size)


__all__ = ["PrecomputeResult", "precompute"]
