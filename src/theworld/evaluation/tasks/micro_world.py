"""The simulated nano world: static questions about a frame, and predictive questions about its future.

An answer is a word, and to some conversational questions a sentence. A predictive answer has a place, such as the
number of the bin or lane: learners and readers predict places, which are then translated to the words of the question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theworld.data.open_source import open_source
from theworld.data.schema import Example, SourceSettings
from theworld.data.sources.micro_world import COMMAND
from theworld.nano.places import MIRRORED, answers_by_place, outcome_place
from theworld.utils.errors import MissingFileError
from theworld.utils.hub import NANO_WEIGHTS
from theworld.utils.imports import require
from theworld.utils.io import read_jsonl
from theworld.utils.logging import logger

from ..learners import Labelled, best_learner
from ..stats.baseline import majority_baseline
from ..store.predictions import Item
from ..tracing import follow, read_ends, share_of
from .answers import parse_choice
from .base import Learned, Score, Task, TaskItems, read_items

MIN_READ = 100
"""Smallest number of labelled scenes for fitting a reader of latents."""

SAME = 0.05
"""Largest mean squared difference of normalised current latents of the same encoder (bf16 rounds)."""


def load(settings: SourceSettings) -> TaskItems:
    """The questions in a folder of scenes; the family is `static/<family>` or `predictive/<family>`.

    `metadata["places"]` holds the outcomes of the item's scene: family -> (answers by place, place of the right one).

    Raises as `open_source`. A folder without scenes is a `FileNotFoundError` that names the command that makes them.
    """
    settings.refuse("micro_world", "clip_frames")
    source = open_source("micro_world", settings)
    folder = settings.local / (settings.split or "")
    if not (folder / "records.jsonl").is_file():
        raise MissingFileError(f"{folder / 'records.jsonl'}: no such file; make scenes with `{COMMAND}`")
    records = list(read_jsonl(folder / "records.jsonl"))
    frames = np.asarray(np.load(folder / "frames.npy", mmap_mode="r"))  # (N, F, H, W, 3), left on the disk
    return read_items(source, partial(_item, records, frames))


def _item(records: Sequence[dict[str, Any]], frames: np.ndarray[Any, Any], example: Example) -> Item:
    about = example.metadata
    record, clip = records[about["clip"]], frames[about["clip"]]
    families = record["outcomes"]
    places = {family: (answers_by_place(record, family), outcome_place(record, family)) for family in families}
    name, scene = f"{about['kind']}/{about['family']}", f"scene-{about['clip']}"
    item = Item.from_example(example, family=name, cluster=scene, metadata={**about, "places": places})
    return replace(item, images=(np.array(clip[about["frame"]]),), clip=tuple(clip), frame=about["frame"])


def score(item: Item, output: str) -> Score:
    """Right if the output names the right choice."""
    word = parse_choice(output, item.choices)
    return Score(word, float(word == item.answer))


def baselines(items: Sequence[Item]) -> dict[str, float]:
    """Accuracy of a random choice, and of the most frequent answer of every family."""
    return {
        "chance": sum(1 / len(item.choices) for item in items) / len(items),
        "majority_answer": float(majority_baseline(items).mean()),
    }


def default_source(output: Path, num_samples: int | None) -> str:
    """Folder of the test scenes in `output`, simulated if missing; at most as many scenes as questions."""
    require("nano", "pymunk")
    from theworld.nano.scenes import SIZES, scenes_of

    share = min(1, (num_samples or np.inf) / sum(SIZES["test"].values()))
    return str(scenes_of(output / "scenes", "test", share).folder)


def learn(
    items: Sequence[Item], source: SourceSettings, folder: Path, seed: int, cosmos: Path = NANO_WEIGHTS / "cosmos"
) -> Learned:
    """Answers of static learners that are fitted on the labels that the model's fusion was trained with.

    Labelled scenes are those of the recipe: the folders `fusion` and `validation` beside the questions' own, or else
    simulated into `folder`/scenes. Of the first, mirrored copies are learned as well. `cosmos` is the folder of the
    world whose latents they read.
    """
    require("nano", "pymunk")
    from theworld.nano import scenes

    # 1. The same scenes and labels as the fusion's, and others to choose on
    folders = {split: (source.local / (source.split or "")).parent / split for split in ("fusion", "validation")}
    train, validation = (
        scenes.load(beside) if beside.is_dir() else scenes.scenes_of(folder / "scenes", split)
        for split, beside in folders.items()
    )
    # 2. The best learner of every family, and its answers in the words of each question
    answers: dict[str, str] = {}
    table: list[dict[str, Any]] = []
    for name, asked in _predictive(items).items():
        places = places_of(train.records, name), places_of(validation.records, name)
        if min(len(set(known.values())) for known in places) < 2:
            continue  # nothing to tell apart
        fitted_on = labelled(train.frames, places[0], cosmos, mirrored=MIRRORED[name])
        predict, rows = best_learner(name, fitted_on, labelled(validation.frames, places[1], cosmos), seed)
        told = predict(features(np.stack([item.images[0] for item in asked]), cosmos)).tolist()
        answers |= {item.id: item.metadata["places"][name][0][place] for item, place in zip(asked, told, strict=True)}
        table += [{**row, "labels": row["labels"] // 2} for row in rows]  # without the mirrored copies
    return Learned(answers, table)


def trace(
    items: Sequence[Item],
    last_latents: Callable[[Sequence[Item]], Tensor],
    answers: Mapping[str, str],
    cosmos: Path = NANO_WEIGHTS / "cosmos",
) -> dict[str, Any]:
    """By predictive family, whether the answers follow the end that the model imagined; see `tracing.py`.

    The readers are fitted on the true last latents of the scenes of `items`, encoded by the world in `cosmos`.

    Args:
        last_latents: The full model's rolled-out latents (n, C, T, h, w) of items; only an imagined end of the whole
            clip can be read.
        answers: The full model's answers by item id.

    Returns:
        Family -> `follow`'s figures, `scenes` (that readers were fitted on) and `reader_right` on true last latents;
        empty where the latents are of another encoder or end before the clip does.
    """
    # 1. Every scene once, its true latents beside the imagined ones of its questions
    scenes = {item.metadata["clip"]: item for item in items}
    clips = np.stack([item.clip for item in scenes.values()])  # (n, F, H, W, 3)
    true, flipped = (dict(zip(scenes, latents_of(seen, cosmos), strict=True)) for seen in (clips, clips[:, :, :, ::-1]))
    traced: dict[str, Any] = {}
    for name, asked in _predictive(items).items():
        imagined = last_latents(asked).float().cpu()
        own = torch.stack([true[item.metadata["clip"]] for item in asked])  # (m, C, T, h, w)
        if imagined.shape != own.shape or (imagined - own)[:, :, 0].square().mean() > SAME:
            logger.warning("errors are not traced: the model's latents are not those of the nano world's clips")
            return {}
        # 2. Read by place, put into the words of the question
        places = {
            clip: item.metadata["places"][name][1] for clip, item in scenes.items() if name in item.metadata["places"]
        }
        if len(places) < MIN_READ:
            logger.warning("errors of %s are not traced: %d scenes, expected at least %d", name, len(places), MIN_READ)
            continue
        labels, position = torch.tensor([*places.values()]), {clip: number for number, clip in enumerate(places)}
        last, mirrored = (torch.stack([latents[clip][:, -1] for clip in places]) for latents in (true, flipped))
        mirrors = mirrored, torch.tensor(MIRRORED[name])[labels]
        seen, read = read_ends(
            last, labels, mirrors, imagined[:, :, -1], [position[item.metadata["clip"]] for item in asked]
        )
        ends = [item.metadata["places"][name][0][place] for item, place in zip(asked, read.tolist(), strict=True)]
        figures = follow([item.answer for item in asked], ends, [answers.get(item.id) for item in asked])
        traced[f"predictive/{name}"] = {**figures, "scenes": len(labels), "reader_right": share_of(seen == labels)}
    return traced


def _predictive(items: Sequence[Item]) -> dict[str, list[Item]]:
    """The predictive items by family, without the prefix `predictive/`."""
    asked = defaultdict[str, list[Item]](list)
    for item in items:
        kind, _, family = item.family.partition("/")
        if kind == "predictive":
            asked[family].append(item)
    return asked


def places_of(records: Sequence[dict[str, Any]], family: str) -> dict[int, int]:
    """By index of the scenes that have this outcome, its place."""
    places = {index: outcome_place(record, family) for index, record in enumerate(records)}
    return {index: place for index, place in places.items() if place is not None}


def labelled(
    frames: np.ndarray[Any, Any], places: Mapping[int, int], cosmos: Path, mirrored: Sequence[int] = ()
) -> Labelled:
    """First frames of clips (N, F, H, W, 3) with the place of their outcome, as static learners take them.

    Args:
        places: By index of the clips that are learned from, the place of the outcome.
        cosmos: Folder of the world whose latents are read.
        mirrored: The place of each place in the mirrored image, to learn from mirrored copies as well.
    """
    first, labels = np.asarray(frames[list(places), 0]), torch.tensor([*places.values()])
    if mirrored:
        first = np.concatenate([first, first[:, :, ::-1]])
        labels = torch.cat([labels, torch.tensor(mirrored)[labels]])
    return Labelled(features(first, cosmos), labels)


def features(frames: np.ndarray[Any, Any], cosmos: Path) -> dict[str, Tensor]:
    """What learners read of frames (n, H, W, 3): pixels (n, 3, H, W), brightness, current latents (n, C, h, w)."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2) / 255
    latents = latents_of(frames[:, None], cosmos)[:, :, 0]
    return {"pixels": pixels, "brightness": pixels.amax(1, keepdim=True), "current latent": latents}


@torch.no_grad()
def latents_of(clips: np.ndarray[Any, Any], cosmos: Path) -> Tensor:
    """Latents (n, C, T, h, w) of clips (n, F, H, W, 3) by the world in the folder `cosmos`."""
    from diffusers import AutoencoderKLWan

    from theworld.nano.vae import encode_clips

    vae = AutoencoderKLWan.from_pretrained(cosmos, subfolder="vae", torch_dtype=torch.float32)
    return encode_clips(vae.eval(), clips)


MICRO_WORLD = Task(
    "micro_world",
    "Micro-world",
    load,
    score,
    baselines=baselines,
    kinds=("predictive", "static", "conversational"),
    default_source=default_source,
    learn=learn,
    questions_to_learn=1_000,
    trace=trace,
)
