"""The whole recipe: all stages from random weights to the weights inside the package.

    scenes -> VAE -> dynamics  +-> fusion (align, questions)   +-> package
           -> vision, language |   the same for every control  |

A finished stage leaves its files, so a second call continues with the next stage. The figures of a stage are saved next
to its results. The stages of the fusion are runs of the trainer.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from theworld.nano.dynamics import train_dynamics
from theworld.nano.fusion import CONVERSATIONS, stage_settings, start_fusion, write_clips, write_conversations
from theworld.nano.scenes import SPLITS, generate
from theworld.nano.vae import train_vae
from theworld.nano.vlm import train_vlm
from theworld.training.config import TrainingConfig
from theworld.training.precompute import precompute
from theworld.training.run import train
from theworld.utils.errors import TheWorldError, brief
from theworld.utils.folders import locked, read_object
from theworld.utils.hub import NANO_WEIGHTS
from theworld.utils.io import write_json

from .lanes import Lane, run_lanes
from .nano_config import NanoConfig
from .package import CONTROLS, copy_base_models, package_cosmos, package_delta, package_gemma, write_card

logger = logging.getLogger(__name__)

ENCODERS = {"current_frame": "still", "random_encoder": "random", "other_source": "patches"}
"""Controls that are trained like the fusion with another world encoder."""

PATCHED = {"cosmos_features": {"world_unpooling": 2}}
"""Settings of encoders whose patch covers 2 x 2 latent positions: as many world tokens as with the others."""

ENCODED_TOGETHER = 64  # images per batch when the latent cache is filled

TO_THE_END = 12  # the full rollout is 12 times as frequent as any other K; with more of the others, alignment is lost

ADAPTERS = {"r": 19, "alpha": 38}
"""LoRA of the control `gemma_tuned`: 7 % fewer parameters than the projector of the fusion."""


def train_nano(out: Path, config: NanoConfig | None = None) -> Path:
    """Run the stages that have not finished in `out`. Returns `out`/weights, with the layout of the shipped weights.

    World model and language model are independent, and so are the fusion and its controls. With two `workers` or more
    they are trained in parallel processes.

    Raises:
        ValueError: `out` was made with another config, or another run uses it.
    """
    config = config or NanoConfig()
    with locked(out, is_main=True, option="folder"):
        settle(out / "recipe.json", config)
        scenes, cosmos, gemma, weights = out / "scenes", out / "cosmos", out / "gemma", out / "weights"
        # 1. The scenes
        for split in SPLITS:
            simulate(out, split, config)
        # 2. The world model and the language model in parallel
        world: Lane = [
            (cosmos / "vae.json", partial(train_vae, scenes, cosmos, **config.of_vae())),
            (cosmos / "dynamics.json", partial(train_dynamics, scenes, cosmos, cosmos, **config.of_dynamics())),
            (weights / "cosmos" / "model_index.json", partial(package_cosmos, cosmos, weights / "cosmos")),
        ]
        language: Lane = [
            (gemma / "vlm.json", partial(train_vlm, scenes, gemma, **config.of_vlm())),
            (weights / "gemma" / "config.json", partial(package_gemma, gemma, weights / "gemma")),
        ]
        run_lanes([world, language], config.workers)
        # 3. The fusion and its controls in parallel
        _converse(out, config)
        lane = partial(fusion_lane, out, config)
        controls = [lane(f"{CONTROLS}/{name}", kind) for name, kind in ENCODERS.items()]
        run_lanes([lane("theworld"), *controls, tuned_lane(out, config)], config.workers)
        if not (weights / "README.md").is_file():
            write_card(weights)
        return weights


def train_fusions(
    out: Path, encoders: Sequence[str], seeds: Sequence[int], config: NanoConfig | None = None
) -> list[Path]:
    """Train fusions of the shipped base models that differ only in world encoder and seed. Finished stages are skipped.

    All fusions use the same scenes and conversations, which do not depend on `seeds`. With two `workers` or more they
    are trained in parallel.

    Args:
        encoders: Keys of `WORLD_ENCODERS`.

    Returns:
        The folder of each fusion, `out`/weights/<encoder>-<seed>.

    Raises:
        ValueError: `out` was made with another config, another run uses it, or the shipped models have clips of
            another size or length.
    """
    config = config or NanoConfig()
    check_seeds("seed", seeds)
    if len(set(encoders)) < len(encoders):
        raise TheWorldError(f"world_encoder={[*encoders]}: expected different world encoders")
    chosen = [(f"{encoder}-{seed}", encoder, seed) for seed in seeds for encoder in encoders]
    with locked(out, is_main=True, option="folder"):
        prepare_fusions(out, config)
        lanes = [fusion_lane(out, replace(config, seed=seed), name, encoder) for name, encoder, seed in chosen]
        run_lanes(lanes, config.workers)
    return [out / "weights" / name for name, *_ in chosen]


def check_seeds(name: str, seeds: Sequence[int]) -> None:
    """Raise a ValueError unless `seeds` are one or several different seeds."""
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(one) is int and 0 <= one < 2**32 for one in seeds):
        raise TheWorldError(f"{name}={[*seeds]}: expected different whole numbers from 0 to {2**32 - 1}")


def prepare_fusions(out: Path, config: NanoConfig) -> None:
    """Prepare `out` for fusions of the shipped base models: these models, scenes, clips and conversations.

    Raises:
        ValueError: `out` was made with another config or other base models, or the shipped models have clips of
            another size or length.
    """
    check_clips(NANO_WEIGHTS, config)
    settle(out / "recipe.json", config)
    simulate(out, "fusion", config)
    _converse(out, config)
    copy_base_models(NANO_WEIGHTS, out / "weights")


def check_clips(weights: Path, config: NanoConfig) -> None:
    """Raise a ValueError if the fusion in `weights` has other images or numbers of latent frames than the config."""
    known = read_object(weights / "theworld" / "config.json", cure="choose another folder of weights")
    for name, own in (("image_size", "world_image_size"), ("world_steps", "max_world_steps")):
        if getattr(config, name) != known.get(own):
            raise TheWorldError(f"{name}={getattr(config, name)}: expected {known.get(own)}, as in {weights}")


def simulate(out: Path, split: str, config: NanoConfig) -> None:
    """Simulate the scenes of a split, if they are missing."""
    if not (out / "scenes" / split).is_dir():
        logger.info("scenes: simulating %s", split)
        world: dict[str, Any] = {
            "level": config.levels,
            "law": config.law,
            "frames": config.frames,
            "size": config.image_size,
        }
        for left in (out / "scenes").glob(f"{split}.partial-*"):  # of an interrupted run; `out` has one run at a time
            shutil.rmtree(left)
        generate(out / "scenes" / split, split, config.counts(split), config.workers, **world)


def _converse(out: Path, config: NanoConfig) -> None:
    """Write clips and conversations of the scenes of the split `fusion`, if they are missing."""
    if not (out / "clips").is_dir():
        write_clips(out / "scenes" / "fusion", out / "clips", seed=config.seed)
    if not (out / "conversations").is_dir():
        write_conversations(out / "scenes" / "fusion", out / "conversations", seed=config.seed)


def fusion_lane(out: Path, config: NanoConfig, name: str, encoder: str = "cosmos") -> Lane:
    """Return the stages of a fusion of the packaged base models: start, align, questions, package."""
    return [*align_lane(out, config, name, encoder), *question_lane(out, config, name, out / name / "align")]


def align_lane(
    out: Path, config: NanoConfig, name: str, encoder: str = "cosmos", cosmos: str = "cosmos", **fusion: Any
) -> Lane:
    """Return the stages start and align in `out`/`name`; `cosmos` is the folder of the world in `out`/weights."""
    folder, weights = out / name, out / "weights"
    sees_no_future = {"true_future_share": 0.0} if encoder in ENCODERS.values() else {}
    align = stage_settings(
        "align",
        latent_cache=str(out / "latents"),
        use_cpu=config.device == "cpu",
        num_world_steps=config.world_steps,
        learning_rate=config.align_learning_rate,
        seed=config.seed,
        model_name=str(folder / "start"),
        train_dataset_path=str(out / "clips"),
        max_steps=config.align_steps,
        output_dir=str(folder / "align"),
        **sees_no_future,
    )
    bases = weights / "gemma", weights / cosmos
    sizes: dict[str, Any] = {"world_image_size": config.image_size}
    sizes |= dict.fromkeys(("num_world_steps", "max_world_steps"), config.world_steps)
    sizes |= PATCHED.get(encoder, {})
    start = partial(start_fusion, *bases, folder / "start", seed=config.seed, world_encoder=encoder, **sizes | fusion)
    aligned = folder / "align" / f"checkpoint-{config.align_steps}"
    return [(folder / "start" / "config.json", start), (aligned / "config.json", partial(run_stage, align))]


def tuned_lane(out: Path, config: NanoConfig, name: str = f"{CONTROLS}/gemma_tuned", **keys: Any) -> Lane:
    """Return the stages of Gemma without a world. Its adapters are trained on the same questions for as many steps."""
    unused = dict.fromkeys(("num_world_steps", "train_world_steps", "latent_cache"))
    plain: dict[str, Any] = {**unused, "enable_world": False, "lora": ADAPTERS, **keys}
    return question_lane(out, config, name, out / "weights" / "gemma", **plain)


def question_lane(
    out: Path,
    config: NanoConfig,
    name: str,
    start: Path,
    *,
    conversations: Path | None = None,
    cosmos: str = "cosmos",
    **keys: Any,
) -> Lane:
    """Return the stages questions, in `out`/`name`, and package, in `out`/weights/`name`.

    Most batches have a rollout to the end of the clip.

    Args:
        start: Checkpoint whose training continues.
        conversations: Folder of conversations. Default: `out`/conversations.
        cosmos: Folder of the world in `out`/weights.
        keys: Override keys of the training config.
    """
    world: dict[str, Any] = {
        "latent_cache": str(out / "latents"),
        "num_world_steps": config.world_steps,
        "train_world_steps": [*range(config.world_steps), *[config.world_steps] * TO_THE_END],
    }
    questions = stage_settings(
        "questions",
        use_cpu=config.device == "cpu",
        learning_rate=config.question_learning_rate,
        seed=config.seed,
        model_name=str(start),
        train_dataset_path=str((conversations or out / "conversations") / CONVERSATIONS),
        max_steps=config.question_steps,
        output_dir=str(out / name / "questions"),
        **world | keys,
    )
    asked = out / name / "questions" / f"checkpoint-{config.question_steps}"
    package = out / "weights" / name
    return [
        (asked / "config.json", partial(run_stage, questions)),
        (package / "config.json", partial(package_delta, asked, package, out / "weights", cosmos)),
    ]


def run_stage(keys: dict[str, Any]) -> None:
    """Train with the keys of a training config. If it has a latent cache, fill it first."""
    config = TrainingConfig.from_dict(keys)
    if config.latent_cache is not None:
        precompute(config, together=ENCODED_TOGETHER)
    train(config)


def settle(path: Path, config: NanoConfig) -> None:
    """Save the config of a folder to `path`.

    Raises:
        ValueError: `path` holds a config that gives other weights, or its folder holds results of an unknown config.
    """
    folder = path.parent
    held = [name for name in ("scenes", "cosmos", "gemma", "clips", "conversations") if (folder / name).exists()]
    if held and not path.is_file():
        raise TheWorldError(f"{folder}: has {', '.join(held)} of unknown settings; choose another folder")
    if path.is_file() and (changes := config.changes(read_object(path, cure="choose another folder"))):
        told = f"{path.parent}: made with other settings: {brief(', '.join(changes))}"
        raise TheWorldError(f"{told}; give --config {path}, or choose another folder")
    write_json(path, config.to_dict())
