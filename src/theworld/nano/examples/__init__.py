"""Scenes that ship with the nano model, one of every kind: image, clip, a question and its answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from theworld.utils.errors import TheWorldError
from theworld.utils.images import open_image
from theworld.utils.io import write_json

FOLDER = Path(__file__).parent
SEEDS = {"pegs": 45_000_009, "drop": 45_000_001, "race": 45_000_003, "stack": 45_000_006, "bumpers": 45_000_001}
"""Of each kind, the first seed from 45,000,000 on where only the answer with the rollout is right. Of pegs, it is the
first one where the three answers also differ. No split has these seeds."""
EXAMPLES = tuple(SEEDS)
FRAME_SECONDS = 1 / 8
"""Seconds between two frames of a clip."""


@dataclass(frozen=True)
class Example:
    """An image, a question about its future, the answer, and the simulated frames."""

    image: Image.Image
    question: str
    answer: str
    clip: list[Image.Image]


def load_example(name: str) -> Example:
    """Load the shipped scene called `name`.

    Raises:
        ValueError: No scene has that name.
    """
    if name not in EXAMPLES:
        raise TheWorldError(f"example {name!r}: expected one of {', '.join(EXAMPLES)}")
    strip = open_image(FOLDER / f"{name}-clip.png")
    size, frames = strip.height, strip.width // strip.height
    clip = [strip.crop((i * size, 0, (i + 1) * size, size)) for i in range(frames)]
    asked = json.loads((FOLDER / "questions.json").read_text(encoding="utf-8"))[name]
    return Example(clip[0], asked["question"], asked["answer"], clip)


def write_examples(folder: Path = FOLDER) -> None:
    """Simulate the scenes of `SEEDS` and write the image, the clip as one strip, and a question of each."""
    import numpy as np

    from ..questions import predictive_questions
    from ..scenes import make_clip

    questions = {}
    for name, seed in SEEDS.items():
        frames, _, record = make_clip(seed, name)
        Image.fromarray(frames[0]).save(folder / f"{name}.png")
        Image.fromarray(np.concatenate(list(frames), axis=1)).save(folder / f"{name}-clip.png")
        question = predictive_questions(record, np.random.default_rng(0))[0]
        questions[name] = {"question": question.text, "answer": question.answer}
    write_json(folder / "questions.json", questions)
