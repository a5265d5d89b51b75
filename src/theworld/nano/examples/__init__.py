"""Scenes that ship with the nano model: the first test scene of every kind, its clip, a question and the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from theworld.utils.errors import TheWorldError
from theworld.utils.images import open_image
from theworld.utils.io import write_json

FOLDER = Path(__file__).parent
EXAMPLES = ("bumpers", "pegs", "drop", "race", "stack")
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
    """Simulate the first test scene of every kind and write its image, its clip as one strip, and a question."""
    import numpy as np

    from ..questions import predictive_questions
    from ..scenes import SPLITS, make_clip

    rng = np.random.default_rng(0)
    questions = {}
    for name in sorted(EXAMPLES):
        frames, _, record = make_clip(SPLITS["test"], name)
        Image.fromarray(frames[0]).save(folder / f"{name}.png")
        Image.fromarray(np.concatenate(list(frames), axis=1)).save(folder / f"{name}-clip.png")
        question = predictive_questions(record, rng)[0]
        questions[name] = {"question": question.text, "answer": question.answer}
    write_json(folder / "questions.json", questions)
