"""The nano fusion: a projector between the frozen nano Gemma and the frozen nano Cosmos, trained in two stages.

The stages, align and questions, are ordinary runs of the trainer with configs/align.json and configs/questions.json.
This module makes their inputs: a model with a new projector, clips, and conversations. The scenes were not used to
train the world model or the language model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from theworld.model import TheWorld
from theworld.utils.folders import made_whole

from .conversations import (
    FIRST,
    FOREIGN_SHARE,
    Conversation,
    foreign_conversation,
    foreign_question,
    questions_about_the_end,
)
from .foreign import foreign_image
from .kinds import KINDS
from .physics import FRAMES
from .questions import static_questions
from .scenes import Record, SceneSet, load, mirror
from .vision import IMAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

CONFIGS = Path(__file__).parent / "configs"
CONVERSATIONS = "conversations.jsonl"
WORLD_STEPS = (FRAMES - 1) // 4
TURNS = 6
DRAWS = 2  # conversations about the first frame of each scene; one more is about a later frame

# benchmarks/nano_choices.py measures the effect of frames ahead, denoising steps, position and attention
FUSION_CONFIG: dict[str, Any] = {
    "world_image_size": IMAGE_SIZE,
    "num_world_steps": WORLD_STEPS,
    "max_world_steps": WORLD_STEPS,
    "projector": "transformer",
    "world_position": "before_image",
    "world_attention": "bidirectional",
    "world_inference_steps": 2,  # 6 take 2.9 times as long and are not shown to be better
    # The best on validation scenes: `theworld evaluate --data .../validation --arms world,world_off`
    "auto_world_margin": 0.9999,
}


def start_fusion(gemma: Path, cosmos: Path, out: Path, *, seed: int = 0, **config: Any) -> None:
    """Save a fusion of two base models with a new projector to `out`, the start of the align stage.

    Args:
        config: Fields of `TheWorldConfig` that override `FUSION_CONFIG`; `world_encoder="still"` makes the control
            without a rollout.
    """
    torch.manual_seed(seed)
    settings = {**FUSION_CONFIG, **config}
    model = TheWorld.from_pretrained(gemma, cosmos_model_name=str(cosmos), dtype=torch.float32, **settings)
    model.save_pretrained(out)


def stage_settings(stage: Literal["align", "questions"], **keys: Any) -> dict[str, Any]:
    """Return the training config of a stage; `keys` override the keys of its file."""
    return {**json.loads((CONFIGS / f"{stage}.json").read_text(encoding="utf-8")), **keys}


def write_clips(scenes_folder: Path, out: Path, *, seed: int = 0, mirrored: bool = False) -> None:
    """Write the clips of the align stage to `out`: every clip, and a copy of it that starts at a later frame.

    `later_present` draws the later frame. The copy repeats the last frame of the clip up to the full length. `out` is
    created only if everything succeeds.

    Args:
        mirrored: Also write the mirror images of all these clips.
    """
    scenes = load(scenes_folder)
    last, each = scenes.frames.shape[1] - 1, 4 if mirrored else 2
    with made_whole(out) as partial:
        shape = (each * len(scenes), *scenes.frames.shape[1:])
        clips = np.lib.format.open_memmap(partial / "frames.npy", "w+", np.uint8, shape)
        for clip, frames in enumerate(scenes.frames):
            present = later_present(clip, last, seed)
            both = np.stack([frames, frames[np.minimum(np.arange(last + 1) + present, last)]])
            clips[each * clip : each * clip + 2] = both
            if mirrored:
                clips[each * clip + 2 : each * (clip + 1)] = both[:, :, :, ::-1]
        clips.flush()


def later_present(clip: int, last: int, seed: int) -> int:
    """Return a later frame of a clip, in half of the cases the last. Both stages use the same one."""
    rng = np.random.default_rng((seed, clip))
    return last if rng.random() < 0.5 else int(rng.integers(1, last))


def write_conversations(
    scenes_folder: Path,
    out: Path,
    *,
    draws: int = DRAWS,
    labels: int | None = None,
    kinds: Collection[str] = tuple(KINDS),
    seed: int = 0,
    mirrored: bool = False,
) -> None:
    """Write conversations about scenes and their images to `out`, which is created only if everything succeeds.

    Every scene has `draws` conversations about its first frame and one about a later frame. Questions about the end are
    asked about the first frame only. Conversations about foreign images are added.

    Args:
        labels: Maximum number of scenes of each kind; the first ones are used. Default: all.
        kinds: Kinds of scenes. Default: all.
        mirrored: Also write conversations about the mirror image of every scene. `labels` does not count these copies.
    """
    scenes, rng = load(scenes_folder), np.random.default_rng(seed)
    seen: dict[str, int] = defaultdict(int)
    with made_whole(out) as partial, (partial / CONVERSATIONS).open("w", encoding="utf-8") as lines:
        for clip, record in enumerate(scenes.records):
            seen[record["kind"]] += 1
            if record["kind"] not in kinds or (labels is not None and seen[record["kind"]] > labels):
                continue
            present = later_present(clip, scenes.frames.shape[1] - 1, seed)
            sides = {"": record, "-mirrored": mirror(record)} if mirrored else {"": record}
            for side, seen_from in sides.items():
                for name, conversation in _conversations(clip, seen_from, present, draws, rng):
                    lines.write(json.dumps(_row(partial, scenes, name, conversation, side)) + "\n")


def _conversations(
    clip: int, record: Record, present: int, draws: int, rng: np.random.Generator
) -> Iterator[tuple[str, Conversation]]:
    """Yield the conversations about a scene, each with its name; `present` is the later frame."""
    name = f"{record['kind']}-{record['seed']}"
    for draw in range(draws):
        yield f"{name}-{draw}", draw_fusion_conversation(clip, record, FIRST, rng)
    yield f"{name}-later", draw_fusion_conversation(clip, record, present, rng)
    if rng.random() < FOREIGN_SHARE * (draws + 1):
        yield f"{name}-foreign", foreign_conversation(record, rng)


def _row(folder: Path, scenes: SceneSet, name: str, conversation: Conversation, side: str) -> dict[str, Any]:
    """Return a row of the file, and write its image to `folder` if it is missing; with a `side`, a mirrored one."""
    clip, present = conversation.clip, conversation.views[-1]
    image = f"{clip:05}-{present}{side}.png" if clip >= 0 else f"foreign-{-1 - clip:05}.png"
    if not (folder / image).exists():
        pixels = scenes.frames[clip, present] if clip >= 0 else foreign_image(-1 - clip, scenes.frames.shape[2])
        Image.fromarray(pixels[:, ::-1] if side and clip >= 0 else pixels).save(folder / image)
    messages: list[dict[str, str]] = []
    for turn in conversation.turns:
        messages += [{"role": "user", "content": turn.text}, {"role": "assistant", "content": turn.answer}]
    return {"id": f"{name}{side}", "image": image, "messages": messages}


def draw_fusion_conversation(
    clip: int, record: dict[str, Any], present: int, rng: np.random.Generator, turns: int = TURNS
) -> Conversation:
    """Draw questions about one frame of a clip, in random order. Only the first frame is also asked about the end."""
    predictive = questions_about_the_end(record, rng) if present == FIRST else []
    static = static_questions(record, present, rng)
    kept = [static[i] for i in rng.permutation(len(static))[: turns - len(predictive)]]
    asked = [*predictive, *kept]
    if rng.random() < FOREIGN_SHARE:
        asked[-1] = foreign_question(rng)
    return Conversation(clip, (present,), tuple(asked[i] for i in rng.permutation(len(asked))))
