"""Encodes every image of a run once with the frozen world encoder, into the latent cache.

The images are those that the run's collator gives to the model. Each is encoded alone, as in a training step, so the
loss with the cache equals the loss without it, bit for bit.
"""

import zlib
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
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
    """Counts of a `precompute` call."""

    folder: str
    rows: int
    computed: int  # images encoded
    present: int  # images whose latents were in the cache; an image counts as often as it occurs
    repaired: int  # damaged latents that were deleted, to be computed again
    skipped: int  # rows that gave no example
    skip_causes: str  # skipped rows by cause, one line each


def process_of(row: Example | Skipped, num_processes: int) -> int:
    """Rank of the process that handles a row. Rows of one image go to one process."""
    images: tuple[Any, ...] = (row.images or row.clip) if isinstance(row, Example) else ()
    name = images[0] if images and isinstance(images[0], str | Path) else row.id
    return zlib.crc32(str(name).encode()) % num_processes


@dataclass(frozen=True)
class Images:
    """This process's share of rows -> their number, the pixels for the encoder by key, and the rows that were skipped.

    Pixels are frames (3, S, S) and clips (F, 3, S, S); `None` where the cache has the latents, unless `keep_pixels`.
    """

    collate: Callable[[list[Example | Skipped]], dict[str, Any]]  # the run's collator, without a cache
    cache: LatentCache
    keep_pixels: bool = False
    rank: int = 0
    world_size: int = 1

    def __call__(self, rows: list[Example | Skipped]) -> tuple[int, Found, list[Skipped]]:
        """One batch; see the class."""
        # The collator needs a question and an answer, although only the pixels are used here
        asked = Message("user", "-"), Message("assistant", "-")
        mine = [
            row
            if isinstance(row, Skipped) or row.messages or row.clip or not row.images
            else replace(row, messages=asked)
            for row in rows
            if process_of(row, self.world_size) == self.rank
        ]
        if not mine:
            return 0, {}, []
        batch = self.collate(mine)
        images = [*batch.get("world_pixel_values", ()), *batch.get("clip_pixel_values", ())]
        pixels = {content_key(image): image for image in images}
        known = [key for key in pixels if not self.keep_pixels and key in self.cache]
        return len(mine), {**pixels, **dict.fromkeys(known)}, batch["skipped"]


def encode(encoder: WorldEncoder, pixels: torch.Tensor, num_world_steps: int) -> torch.Tensor:
    """Latents (B, C, T, h, w) of frames (B, 3, S, S) and their rollouts, or of clips (B, F, 3, S, S)."""
    return encoder.encode_clip(pixels.transpose(1, 2)) if pixels.ndim == 5 else encoder.encode(pixels, num_world_steps)


def precompute(config: TrainingConfig, *, together: int = 1) -> PrecomputeResult:
    """Fill `config.latent_cache` for the training and evaluation data; existing latents are kept.

    Several processes (torchrun, `accelerate launch`) share the rows. If interrupted, call it again to resume.
    Rows that cannot be used are listed in `<output_dir>/precompute/`.

    Args:
        together: Images in one batch. More are faster on small models, but the last bits of their latents then differ
            from those of a training step without the cache.
    """
    if config.latent_cache is None:
        raise TheWorldError("latent_cache is not set: name the folder of the latents, as in --latent_cache latents")
    # Without an accelerator each CPU process would run alone otherwise
    state = PartialState(cpu=config.use_cpu or not torch.accelerator.is_available())
    with locked(Path(config.output_dir) / FOLDER, is_main=state.is_main_process):
        # 1. Load data and model; one pass over a stream needs no number of steps
        one_pass = replace(config, max_steps=config.max_steps or 1)
        data = {SKIPPED: load_rows(one_pass)}
        if config.do_eval:
            data[SKIPPED_EVAL] = load_rows(one_pass, evaluation=True)
        objective = OBJECTIVES[config.objective]
        model = load_model(config, config.model_name, objective.model_class, objective.model_keys)
        encoder = model.model.world_encoder
        assert encoder is not None
        encoder.to(state.device)
        # 2. Open the cache, without damaged shards
        fingerprint = cache_fingerprint(encoder, model.config)
        repaired = drop_damaged(config.latent_cache, fingerprint, state.process_index, state.num_processes)
        state.wait_for_everyone()
        cache = LatentCache(config.latent_cache, fingerprint, writable=True)
        # 3. Encode this process's share of the rows
        collator = objective.collator(replace(config, latent_cache=None), model)
        reader = Images(collator, cache, keep_pixels=together > 1)
        rows, logs = list[int](), list[SkipLog]()

        def images() -> Iterator[tuple[bytes, torch.Tensor | None]]:
            for name, source in data.items():
                path = Path(config.output_dir) / FOLDER / name
                if state.is_main_process:
                    path.unlink(missing_ok=True)  # left by an earlier pass; images may have been repaired since
                logs.append(SkipLog(path, config.skip_budget, len(source) if isinstance(source, Sized) else None))
                for count, found in read_share(source, reader, logs[-1], config.num_workers):
                    rows.append(count)
                    yield from found.items()

        steps = model.config.num_world_steps
        computed, present = fill(cache, images(), lambda pixels: encode(encoder, pixels, steps), together)
        # 4. Add the counts of all processes
        counted = gather_object([(sum(rows), computed, present, repaired)])
        counts = [sum(numbers) for numbers in zip(*counted, strict=True)]
        causes = "\n".join(filter(None, (log.summary() for log in logs)))
        return PrecomputeResult(str(cache.path), *counts, skipped=sum(map(len, logs)), skip_causes=causes)


def read_share(rows: Any, images: Images, log: SkipLog, num_workers: int) -> Iterator[tuple[int, Found]]:
    """Number and images of this process's rows. Every process calls it; the first one keeps the list of skips."""
    state = PartialState()
    if isinstance(rows, StreamedRows):
        rows = rows.split_by_process(state.process_index, state.num_processes)
    else:
        images = replace(images, rank=state.process_index, world_size=state.num_processes)
    elsewhere: list[Skipped] = []
    loader = DataLoader(rows, batch_size=1, collate_fn=images, num_workers=num_workers)
    disable = None if state.is_main_process else True  # None shows it on a terminal only
    with dead_workers_named():
        for count, found, skipped in tqdm(loader, "precompute", disable=disable):
            yield count, found
            if state.is_main_process:
                log.seen(count)
                log.record(skipped)
            else:
                elsewhere += skipped
    others = gather_object(elsewhere)
    if state.is_main_process:
        log.record(others)
