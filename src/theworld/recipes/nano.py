"""The whole recipe: from nothing to the weights inside the package, one stage after the other.

    scenes -> VAE -> dynamics  +-> fusion (align, questions)   +-> package
           -> vision, language |   the same for every control  |

A stage that has finished leaves its files; a second call goes on with the next one. Figures of every stage lie beside
what it made. The fusion's stages are runs of the trainer.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from theworld.nano.dynamics import train_dynamics
from theworld.nano.fusion import CONVERSATIONS, stage_settings, start_fusion, write_clips, write_conversations
from theworld.nano.scenes import KINDS, SIZES, generate
from theworld.nano.vae import train_vae
from theworld.nano.vlm import train_vlm
from theworld.training.config import TrainingConfig
from theworld.training.precompute import precompute
from theworld.training.run import train
from theworld.utils.errors import TheWorldError
from theworld.utils.hub import NANO_WEIGHTS
from theworld.utils.io import write_json
from theworld.utils.logging import configure_logging

from .package import CONTROLS, package_cosmos, package_delta, package_gemma, write_card

logger = logging.getLogger(__name__)

Lane = list[tuple[Path, Callable[[], object]]]
"""Stages in order, each with the file that it leaves when it has finished."""

ENCODERS = {"current_frame": "still", "random_encoder": "random", "other_source": "patches"}
"""Controls that are trained like the fusion, each with another encoder in the world's place."""

ENCODED_TOGETHER = 64  # images of a batch that fills the latent cache

ADAPTERS = {"r": 20, "alpha": 40}
"""Of Gemma trained equally: as many parameters as the fusion's projector, within a few percent."""

# glibc gives a step's memory back and asks for it again; kept instead, a step on a CPU takes two thirds of the time.
_ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "500000000",
}


@dataclass(frozen=True)
class Recipe:
    """Sizes of every stage; the defaults are those of the shipped weights.

    Args:
        train, validation, fusion, test: Scenes of each split, by kind in the order of `KINDS`.
    """

    train: tuple[int, ...] = tuple(SIZES["train"].values())
    validation: tuple[int, ...] = tuple(SIZES["validation"].values())
    fusion: tuple[int, ...] = tuple(SIZES["fusion"].values())
    test: tuple[int, ...] = tuple(SIZES["test"].values())
    vae: dict[str, Any] | None = None
    dynamics: dict[str, Any] | None = None
    vlm: dict[str, Any] | None = None
    align_steps: int = 1_500
    question_steps: int = 1_200
    seed: int = 0
    workers: int = 2

    def counts(self, split: str) -> dict[str, int]:
        """Scenes per kind of `split`."""
        return dict(zip(KINDS, getattr(self, split), strict=True))


# A few steps of everything: whether it runs, not whether it learns.
SMOKE = Recipe(
    train=(12, 6, 6, 12, 12),
    validation=(3, 3, 3, 3, 3),
    fusion=(6, 6, 6, 6, 6),
    test=(3, 3, 3, 3, 3),
    vae={"image_steps": 2, "clip_steps": 2},
    dynamics={"steps": 2, "metric_steps": 2, "batch_size": 4, "compiled": False},
    vlm={"vision_steps": 2, "language_steps": 2, "comparison_steps": 2, "per_family": 2},
    align_steps=2,
    question_steps=2,
    workers=1,
)


def train_nano(out: Path, recipe: Recipe | None = None) -> Path:
    """Run what has not finished yet in `out`; returns the folder `out`/weights, laid out as the package's.

    The world and the language model need nothing of each other, nor do the fusion and its control: with two `workers`
    or more they train side by side, each in a process of its own.
    """
    recipe = recipe or Recipe()
    settle(out / "recipe.json", recipe)
    scenes, cosmos, gemma, weights = out / "scenes", out / "cosmos", out / "gemma", out / "weights"
    for split in ("train", "validation", "fusion", "test"):
        simulate(out, split, recipe)

    def seeded(train: Callable[..., object], *args: Path, **settings: Any) -> Callable[[], object]:
        return partial(train, scenes, *args, seed=recipe.seed, **settings)

    world: Lane = [
        (cosmos / "vae.json", seeded(train_vae, cosmos, **(recipe.vae or {}))),
        (cosmos / "dynamics.json", seeded(train_dynamics, cosmos, cosmos, **(recipe.dynamics or {}))),
        (weights / "cosmos" / "model_index.json", partial(package_cosmos, cosmos, weights / "cosmos")),
    ]
    language: Lane = [
        (gemma / "vlm.json", seeded(train_vlm, gemma, **(recipe.vlm or {}))),
        (weights / "gemma" / "config.json", partial(package_gemma, gemma, weights / "gemma")),
    ]
    run_lanes([world, language], recipe.workers)
    _converse(out, recipe)
    lane = partial(fusion_lane, out, recipe)
    controls = [lane(f"{CONTROLS}/{name}", kind) for name, kind in ENCODERS.items()]
    run_lanes([lane("theworld"), *controls, tuned_lane(out, recipe)], recipe.workers)
    if not (weights / "README.md").is_file():
        write_card(weights)
    return weights


def train_fusions(out: Path, encoders: Sequence[str], seeds: Sequence[int], recipe: Recipe | None = None) -> list[Path]:
    """Train fusions of the shipped base models, alike in all but world encoder and seed; runs what has not finished.

    All of them read the same scenes and conversations, which do not depend on `seeds`. With two `workers` or more they
    train side by side.

    Args:
        encoders: Keys of `WORLD_ENCODERS`.

    Returns:
        The folder of each, `out`/weights/<encoder>-<seed>.
    """
    recipe = recipe or Recipe()
    settle(out / "recipe.json", recipe)
    simulate(out, "fusion", recipe)
    _converse(out, recipe)
    for base in ("gemma", "cosmos"):
        shutil.copytree(NANO_WEIGHTS / base, out / "weights" / base, dirs_exist_ok=True)
    chosen = [(f"{encoder}-{seed}", encoder, seed) for seed in seeds for encoder in encoders]
    lanes = [fusion_lane(out, replace(recipe, seed=seed), name, encoder) for name, encoder, seed in chosen]
    run_lanes(lanes, recipe.workers)
    return [out / "weights" / name for name, *_ in chosen]


def simulate(out: Path, split: str, recipe: Recipe) -> None:
    """The scenes of a split, unless they are there."""
    if not (out / "scenes" / split).is_dir():
        logger.info("scenes: simulating %s", split)
        generate(out / "scenes" / split, split, recipe.counts(split), recipe.workers)


def _converse(out: Path, recipe: Recipe) -> None:
    """The clips to align on and the conversations about the scenes of the fusion, unless they are there."""
    if not (out / "clips").is_dir():
        write_clips(out / "scenes" / "fusion", out / "clips", seed=recipe.seed)
    if not (out / "conversations").is_dir():
        write_conversations(out / "scenes" / "fusion", out / "conversations", seed=recipe.seed)


def fusion_lane(out: Path, recipe: Recipe, name: str, encoder: str = "cosmos") -> Lane:
    """A fresh fusion of the packaged base models with a world encoder, its two runs, and their package."""
    return [*align_lane(out, recipe, name, encoder), *question_lane(out, recipe, name, out / name / "align")]


def align_lane(out: Path, recipe: Recipe, name: str, encoder: str = "cosmos", cosmos: str = "cosmos") -> Lane:
    """A fresh fusion and its alignment in `out`/`name`; `cosmos` is the folder of the world in `out`/weights."""
    folder, weights = out / name, out / "weights"
    sees_no_future = {"true_future_share": 0.0} if encoder in ENCODERS.values() else {}
    align = stage_settings(
        "align",
        latent_cache=str(out / "latents"),
        seed=recipe.seed,
        model_name=str(folder / "start"),
        train_dataset_path=str(out / "clips"),
        max_steps=recipe.align_steps,
        output_dir=str(folder / "align"),
        **sees_no_future,
    )
    bases = weights / "gemma", weights / cosmos
    start = partial(start_fusion, *bases, folder / "start", seed=recipe.seed, world_encoder=encoder)
    aligned = folder / "align" / f"checkpoint-{recipe.align_steps}"
    return [(folder / "start" / "config.json", start), (aligned / "config.json", partial(run_stage, align))]


def tuned_lane(out: Path, recipe: Recipe, name: str = f"{CONTROLS}/gemma_tuned", **keys: Any) -> Lane:
    """Gemma without a world, its adapters trained on the fusion's questions, as long and with as many parameters."""
    plain = {"enable_world": False, "num_world_steps": None, "train_world_steps": None, "latent_cache": None}
    plain |= {"lora": ADAPTERS, "freeze_gemma_vision": False}
    return question_lane(out, recipe, name, out / "weights" / "gemma", **plain, **keys)


def question_lane(
    out: Path,
    recipe: Recipe,
    name: str,
    start: Path,
    *,
    conversations: Path | None = None,
    cosmos: str = "cosmos",
    **keys: Any,
) -> Lane:
    """The run on questions from the checkpoint `start` in `out`/`name`, and its package in `out`/weights/`name`.

    Args:
        conversations: Folder of what it reads; by default `out`/conversations.
        cosmos: Folder of the world in `out`/weights.
        keys: Keys of the run's training config over those of its file.
    """
    latents: dict[str, Any] = {"latent_cache": str(out / "latents")}
    questions = stage_settings(
        "questions",
        seed=recipe.seed,
        model_name=str(start),
        train_dataset_path=str((conversations or out / "conversations") / CONVERSATIONS),
        max_steps=recipe.question_steps,
        output_dir=str(out / name / "questions"),
        **latents | keys,
    )
    asked = out / name / "questions" / f"checkpoint-{recipe.question_steps}"
    package = out / "weights" / name
    return [
        (asked / "config.json", partial(run_stage, questions)),
        (package / "config.json", partial(package_delta, asked, package, out / "weights", cosmos)),
    ]


def run_stage(keys: dict[str, Any]) -> None:
    """Train what the keys of a training config say; its latent cache is filled first where it reads whole clips."""
    config = TrainingConfig.from_dict(keys)
    if config.latent_cache is not None:
        precompute(config, together=ENCODED_TOGETHER)
    train(config)


def run_lanes(lanes: Sequence[Lane], workers: int) -> None:
    """Run every lane's unfinished stages in order, the lanes side by side as far as there are `workers`."""
    lanes = [[stage for stage in lane if not stage[0].is_file()] for lane in lanes]
    lanes = [lane for lane in lanes if lane]
    if min(workers, len(lanes)) < 2:
        for lane in lanes:
            _run_stages(lane)
        return
    os.environ.update({name: value for name, value in _ALLOCATOR.items() if name not in os.environ})
    side_by_side = min(workers, len(lanes))
    threads = max(1, (os.cpu_count() or 1) // side_by_side)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(side_by_side, context, initializer=_start_worker, initargs=(threads,)) as pool:
        for done in [pool.submit(_run_stages, lane) for lane in lanes]:
            done.result()


def _start_worker(threads: int) -> None:
    configure_logging()
    torch.set_num_threads(threads)


def _run_stages(lane: Lane) -> None:
    for marker, run in lane:
        logger.info("%s: starting", marker.relative_to(marker.parents[1]))
        run()


def settle(path: Path, recipe: Recipe) -> None:
    """Remember the settings that a folder is made with.

    Raises:
        ValueError: Its stages were made with others.
    """
    settings = json.loads(json.dumps(asdict(replace(recipe, workers=0))))
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise TheWorldError(f"{path.parent}: made with other settings than these; choose another folder or remove it")
    write_json(path, settings)
