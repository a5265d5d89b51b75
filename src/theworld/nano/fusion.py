"""The nano fusion: a projector between the frozen nano Gemma and the frozen nano Cosmos, aligned, then asked questions.

Both stages are runs of the trainer like any other: configs/align.json and configs/questions.json beside this file. Here
is what they start from and read: a fresh model, and conversations about scenes that no world or language training has
seen.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from theworld.model import TheWorld

from .conversations import FIRST, Conversation
from .physics import FRAMES
from .questions import predictive_questions, static_questions
from .scenes import SceneSet, load
from .vision import IMAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGS = Path(__file__).parent / "configs"
CONVERSATIONS = "conversations.jsonl"
WORLD_STEPS = (FRAMES - 1) // 4
TURNS = 6
DRAWS = 3  # conversations about each scene: one pass over all of them is 2,000 steps of 12

# Delta from the library's defaults. The layout is what the validation scenes preferred; see benchmarks/nano_layouts.py.
FUSION_CONFIG: dict[str, Any] = {
    "world_image_size": IMAGE_SIZE,
    "num_world_steps": WORLD_STEPS,
    "max_world_steps": WORLD_STEPS,
    "projector": "transformer",
    "world_position": "before_image",
    "world_attention": "bidirectional",
    "world_inference_steps": 6,
    # The best on validation scenes: `theworld evaluate --data .../validation --arms world,world_off`
    "auto_world_margin": 0.994,
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


def write_conversations(scenes_folder: Path, out: Path, *, draws: int = DRAWS, seed: int = 0) -> None:
    """Write `draws` conversations about the first frame of every scene, and the frames, to `out`; all or nothing."""
    scenes = load(scenes_folder)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        for clip in range(len(scenes)):
            Image.fromarray(scenes.frames[clip, FIRST]).save(partial / f"{clip:05}.png")
        with (partial / CONVERSATIONS).open("w", encoding="utf-8") as lines:
            for row in _rows(scenes, draws, np.random.default_rng(seed)):
                lines.write(json.dumps(row) + "\n")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rows(scenes: SceneSet, draws: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for clip, record in enumerate(scenes.records):
        for draw in range(draws):
            messages: list[dict[str, str]] = []
            for turn in draw_fusion_conversation(clip, record, rng).turns:
                messages += [{"role": "user", "content": turn.text}, {"role": "assistant", "content": turn.answer}]
            name = f"{record['kind']}-{record['seed']}-{draw}"
            yield {"id": name, "image": f"{clip:05}.png", "messages": messages}


def draw_fusion_conversation(clip: int, record: dict[str, Any], rng: np.random.Generator) -> Conversation:
    """Every predictive question of the scene and static ones about its first frame, in random order."""
    predictive = predictive_questions(record, rng)
    static = static_questions(record, FIRST, rng)
    kept = [static[i] for i in rng.permutation(len(static))[: TURNS - len(predictive)]]
    turns = [*predictive, *kept]
    return Conversation(clip, (FIRST,), tuple(turns[i] for i in rng.permutation(len(turns))))
