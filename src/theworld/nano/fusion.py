"""The nano fusion: a projector between the frozen nano Gemma and the frozen nano Cosmos, aligned, then asked questions.

Both stages are runs of the trainer like any other: configs/align.json and configs/questions.json beside this file. Here
is what they start from and read: a fresh model, and conversations about scenes that no world or language training has
seen.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from theworld.model import TheWorld

from .conversations import (
    FIRST,
    FOREIGN_SHARE,
    Conversation,
    foreign_conversation,
    foreign_question,
    questions_about_the_end,
)
from .foreign import foreign_image
from .physics import FRAMES
from .questions import static_questions
from .scenes import SceneSet, load
from .vision import IMAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGS = Path(__file__).parent / "configs"
CONVERSATIONS = "conversations.jsonl"
WORLD_STEPS = (FRAMES - 1) // 4
TURNS = 6
DRAWS = 2  # conversations about each scene's first frame; a third is about a later one

# Delta from the library's defaults. benchmarks/nano_choices.py measures what each is worth.
FUSION_CONFIG: dict[str, Any] = {
    "world_image_size": IMAGE_SIZE,
    "num_world_steps": WORLD_STEPS,
    "max_world_steps": WORLD_STEPS,
    "projector": "transformer",
    "world_position": "before_image",
    "world_attention": "bidirectional",
    "world_inference_steps": 2,  # 6 are right less often on validation scenes
    # The best on validation scenes: `theworld evaluate --data .../validation --arms world,world_off`
    "auto_world_margin": 0.9999,
    "world_guidance_scale": 1.0,
}


def start_fusion(gemma: Path, cosmos: Path, out: Path, *, seed: int = 0, **config: Any) -> None:
    """Save a fresh fusion of two base folders to `out`: what the first stage starts from.

    Args:
        config: Settings of `TheWorldConfig` beside `FUSION_CONFIG`; `world_encoder="still"` makes the matched control.
    """
    torch.manual_seed(seed)
    settings = {**FUSION_CONFIG, **config}
    model = TheWorld.from_pretrained(gemma, cosmos_model_name=str(cosmos), dtype=torch.float32, **settings)
    model.save_pretrained(out)


def stage_settings(stage: Literal["align", "questions"], **keys: Any) -> dict[str, Any]:
    """The config of a stage as the trainer takes it, with `keys` over those of its file."""
    return {**json.loads((CONFIGS / f"{stage}.json").read_text(encoding="utf-8")), **keys}


def write_clips(scenes_folder: Path, out: Path, *, seed: int = 0) -> None:
    """Write what alignment looks at to `out`: every clip, and again from a later frame on; all or nothing.

    A later present is drawn for each clip, half the time its last frame. What has ended stays as it is.
    """
    scenes = load(scenes_folder)
    last = scenes.frames.shape[1] - 1
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        shape = (2 * len(scenes), *scenes.frames.shape[1:])
        clips = np.lib.format.open_memmap(partial / "frames.npy", "w+", np.uint8, shape)
        for clip, frames in enumerate(scenes.frames):
            present = later_present(clip, last, seed)
            clips[2 * clip] = frames
            clips[2 * clip + 1] = frames[np.minimum(np.arange(last + 1) + present, last)]
        clips.flush()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def later_present(clip: int, last: int, seed: int) -> int:
    """A later frame of a clip, half the time the last; the same for alignment and for questions."""
    rng = np.random.default_rng((seed, clip))
    return last if rng.random() < 0.5 else int(rng.integers(1, last))


def write_conversations(
    scenes_folder: Path, out: Path, *, draws: int = DRAWS, labels: int | None = None, seed: int = 0
) -> None:
    """Write conversations about scenes, and the images that they are about, to `out`; all or nothing.

    Every scene has `draws` conversations about its first frame, and one about a later frame, which asks for what that
    frame shows. Beside them are conversations about images that are not of this world.

    Args:
        labels: Scenes of every kind at most, the first ones.
    """
    scenes = load(scenes_folder)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        with (partial / CONVERSATIONS).open("w", encoding="utf-8") as lines:
            for name, conversation in _conversations(scenes, draws, labels, seed):
                lines.write(json.dumps(_row(partial, scenes, name, conversation)) + "\n")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _conversations(scenes: SceneSet, draws: int, labels: int | None, seed: int) -> Iterator[tuple[str, Conversation]]:
    """Every conversation with its name."""
    rng = np.random.default_rng(seed)
    seen: dict[str, int] = defaultdict(int)
    last = scenes.frames.shape[1] - 1
    for clip, record in enumerate(scenes.records):
        seen[record["kind"]] += 1
        if labels is not None and seen[record["kind"]] > labels:
            continue
        name = f"{record['kind']}-{record['seed']}"
        for draw in range(draws):
            yield f"{name}-{draw}", draw_fusion_conversation(clip, record, FIRST, rng)
        yield f"{name}-later", draw_fusion_conversation(clip, record, later_present(clip, last, seed), rng)
        if rng.random() < FOREIGN_SHARE * (draws + 1):
            foreign = foreign_conversation(record, rng)
            yield f"{name}-foreign", foreign


def _row(folder: Path, scenes: SceneSet, name: str, conversation: Conversation) -> dict[str, Any]:
    """A row of the file; its image is written into `folder` unless it is there."""
    clip, present = conversation.clip, conversation.views[-1]
    image = f"{clip:05}-{present}.png" if clip >= 0 else f"foreign-{-1 - clip:05}.png"
    if not (folder / image).exists():
        pixels = scenes.frames[clip, present] if clip >= 0 else foreign_image(-1 - clip, scenes.frames.shape[2])
        Image.fromarray(pixels).save(folder / image)
    messages: list[dict[str, str]] = []
    for turn in conversation.turns:
        messages += [{"role": "user", "content": turn.text}, {"role": "assistant", "content": turn.answer}]
    return {"id": name, "image": image, "messages": messages}


def draw_fusion_conversation(
    clip: int, record: dict[str, Any], present: int, rng: np.random.Generator, turns: int = TURNS
) -> Conversation:
    """Questions about a frame of a clip in random order: of the first frame also about the end, else what it shows."""
    predictive = questions_about_the_end(record, rng) if present == FIRST else []
    static = static_questions(record, present, rng)
    kept = [static[i] for i in rng.permutation(len(static))[: turns - len(predictive)]]
    asked = [*predictive, *kept]
    if rng.random() < FOREIGN_SHARE:
        asked[-1] = foreign_question(rng)
    return Conversation(clip, (present,), tuple(asked[i] for i in rng.permutation(len(asked))))
