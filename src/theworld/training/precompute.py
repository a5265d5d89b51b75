"""Runs every image of a run through the frozen world encoder once, into the latent cache.

The images are those that the run's own collator gives to the model. Each is encoded alone, as in a training step, so
that the loss with the cache is the loss without it, bit for bit.
"""

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
from theworld.utils.errors import TheWorldError
from theworld.utils.folders import locked

from .config import TrainingConfig
from .objectives import OBJECTIVES
from .rows import load_rows
from .run import SKIPPED, SKIPPED_EVAL
from .stages import load_model
from .streams import dead_workers_named

FOLDER = "precompute"  # of the run folder
Found = dict[bytes, torch.Tensor | None]


@dataclass(frozen=True)
class PrecomputeResult:
    """What was done.

    Args:
        computed: Images encoded.
        present: Images whose latents were in the cache; an image counts as often as it occurs.
        repaired: Damaged latents that were deleted, to be computed again.
        skipped: Rows that gave no example.
        skip_causes: Those by cause, one line each.
    """

    folder: str
    rows: int
    computed: int
    present: int
    repaired: int
    skipped: int
    skip_causes: str


@dataclass(frozen=True)
class Share(Dataset["Example | Skipped | None"]):
    """The rows of process `rank` of `world_size`, `None` for others: rows of one image go to one process."""

    rows: Any
    rank: int
    world_size: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example | Skipped | None:
        row = self.rows[index]
        images: tuple[Any, ...] = (row.images or row.clip) if isinstance(row, Example) else ()
        named = images and isinstance(images[0], str | Path)
        number = zlib.crc32(str(images[0]).encode()) if named else index
        return row if number % self.world_size == self.rank else None


@dataclass(frozen=True)
class Images:
    """Rows -> their number, the pixels for the encoder by key, and the rows that were skipped.

    Pixels are frames (3, S, S) and clips (F, 3, S, S); `None` where the cache has the latents.

    Args:
        collate: The run's collator, without a cache.
        keep_pixels: Return the pixels of every image.
    """

    collate: Callable[[list[Example | Skipped]], dict[str, Any]]
    cache: LatentCache
    keep_pixels: bool = False

    def __call__(self, rows: list[Example | Skipped | None]) -> tuple[int, Found, list[Skipped]]:
        """One batch; see the class."""
        mine = [_asked(row) for row in rows if row is not None]
        if not mine:
            return 0, {}, []
        batch = self.collate(mine)
        images = [*batch.get("world_pixel_values", ()), *batch.get("clip_pixel_values", ())]
        pixels = {content_key(image): image for image in images}
        known = [key for key in pixels if not self.keep_pixels and key in self.cache]
        return len(mine), {**pixels, **dict.fromkeys(known)}, batch["skipped"]


def _asked(row: Example | Skipped) -> Example | Skipped:
    """A row with a question and an answer, which the collator expects: only its pixels matter."""
    if isinstance(row, Skipped) or row.messages or not row.images or row.clip:
        return row
    return replace(row, messages=(Message("user", "-"), Message("assistant", "-")))


def encode(encoder: WorldEncoder, pixels: torch.Tensor, num_world_steps: int) -> torch.Tensor:
    """Latents (B, C, T, h, w) of frames (B, 3, S, S) and their rollouts, or of clips (B, F, 3, S, S)."""
    if pixels.ndim == 5:
        return encoder.encode_clip(pixels.transpose(1, 2))
    return encoder.encode(pixels, num_world_steps)


def precompute(config: TrainingConfig, *, together: int = 1) -> PrecomputeResult:
    """Fill `config.latent_cache` for the training and evaluation data; existing latents are kept.

    Several processes (torchrun, `accelerate launch`) share the rows. If interrupted, call it again to resume.
    Rows that cannot be used are listed in `<output_dir>/precompute/`.

    Args:
        config: The run.
        together: Images in one batch. More are faster on small models, but the last bits of their latents then differ
            from those of a training step without the cache.

    Raises:
        ValueError: The config names no cache, the data cannot be used, or more rows are skipped than `skip_budget`.
        FileNotFoundError: A file or folder is missing.
        OSError: The disk is full.
    """
    if config.latent_cache is None:
        raise TheWorldError("latent_cache is not set: name the folder of the latents, as in --latent_cache latents")
    state = PartialState(cpu=not torch.accelerator.is_available())  # otherwise each CPU process would run alone
    with locked(Path(config.output_dir) / FOLDER, is_main=state.is_main_process):
        return _precompute(config, config.latent_cache, state, together)


def _precompute(config: TrainingConfig, folder: str, state: PartialState, together: int) -> PrecomputeResult:
    # 1. Data and model; one pass over a stream needs no number of steps
    one_pass = replace(config, max_steps=config.max_steps or 1)
    data = {SKIPPED: load_rows(one_pass)}
    if config.do_eval:
        data[SKIPPED_EVAL] = load_rows(one_pass, evaluation=True)
    objective = OBJECTIVES[config.objective]
    model = load_model(config, config.model_name, objective.model_class, objective.model_keys)
    encoder = model.model.world_encoder
    assert encoder is not None
    encoder.to(state.device)
    # 2. The cache, without damaged shards
    fingerprint = cache_fingerprint(encoder, model.config)
    repaired = drop_damaged(folder, fingerprint, state.process_index, state.num_processes)
    state.wait_for_everyone()
    cache = LatentCache(folder, fingerprint, writable=True)
    # 3. Every row of this process's share
    collator = objective.collator(replace(config, latent_cache=None), model)
    reader = Images(collator, cache, keep_pixels=together > 1)
    rows, logs = 0, list[SkipLog]()

    def images() -> Iterator[tuple[bytes, torch.Tensor | None]]:
        nonlocal rows
        for name, source in data.items():
            path = Path(config.output_dir) / FOLDER / name
            if state.is_main_process:
                path.unlink(missing_ok=True)  # of an earlier pass: an image that was repaired no longer counts
            logs.append(SkipLog(path, config.skip_budget, len(source) if isinstance(source, Sized) else None))
            for count, found in read_share(source, reader, logs[-1], config.num_workers):
                rows += count
                yield from found.items()

    steps = model.config.num_world_steps
    computed, present = fill(cache, images(), lambda pixels: encode(encoder, pixels, steps), together)
    counts = [sum(numbers) for numbers in zip(*gather_object([(rows, computed, present, repaired)]), strict=True)]
    causes = "\n".join(filter(None, (log.summary() for log in logs)))
    return PrecomputeResult(str(cache.path), *counts, skipped=sum(map(len, logs)), skip_causes=causes)


def read_share(rows: Any, images: Images, log: SkipLog, num_workers: int) -> Iterator[tuple[int, Found]]:
    """Number and images of this process's rows. Every process calls it; the first one keeps the list of skips.

    Raises:
        ValueError: More rows are skipped than the budget allows.
        OSError: A process that loads data died.
    """
    state = PartialState()
    rank, world_size = state.process_index, state.num_processes
    share = rows if isinstance(rows, StreamedRows) else Share(rows, rank, world_size)
    if isinstance(rows, StreamedRows) and world_size > 1:
        share = rows.split_by_process(rank, world_size)
    elsewhere: list[Skipped] = []
    loader = DataLoader(share, batch_size=1, collate_fn=images, num_workers=num_workers)
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
