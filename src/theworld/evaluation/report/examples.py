"""Items on which arms disagree, with their images: the evidence that a reader can look at.

The images are kept small beside the predictions, so that a later report can show them too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from theworld.data.schema import BadSample
from theworld.utils.images import open_image
from theworld.utils.io import write_bytes

from ..ask.prompts import open_images
from ..judges.forms import readable
from ..store.predictions import Item, Prediction, digest_of
from ..store.refusals import ArmRun

EXAMPLES, MAX_EXAMPLES = "examples", 8
SIDE, FRAME, MAX_FRAMES = 320, 96, 9
"""Pixels of an image's longer side and of the height of a strip of frames; frames that a strip shows."""

LABELS = {"rollout": "What the world model imagines, from the present on", "truth": "What did happen"}
Rollout = Callable[[Item], Sequence[Image.Image]]
"""The decoded frames that the world model imagines for an item, the present one first."""


@dataclass(frozen=True)
class ExampleItem:
    """An item on which arms disagree."""

    row: Prediction  # the full model's
    question: str  # the prompt without the tokens that frame it
    replies: Mapping[str, Prediction]  # by arm
    images: Sequence[tuple[str, Path]]  # what each shows, and its file


def draw_examples(arms: Mapping[str, Sequence[ArmRun]], full: str, decisive: Collection[str]) -> tuple[list[int], int]:
    """Places of items that the full model and an arm of `decisive` do not score alike, and how many there are.

    Half of those drawn are ones that the full model gets right, as far as there are. They are drawn by the hash of
    their ids: at random, and the same again for the same predictions.
    """
    others = [name for name in arms if name in decisive] or [name for name in arms if name != full]
    ours, theirs = arms[full][0].predictions, [arms[name][0].predictions for name in others]
    differ = [
        place
        for place, row in enumerate(ours)
        if any(rows[place].score != row.score and rows[place].failed is None for rows in theirs)
    ]
    differ.sort(key=lambda place: hashlib.sha256(ours[place].id.encode()).digest())
    wins, losses = ([place for place in differ if bool(ours[place].score) is right] for right in (True, False))
    chosen = wins[: MAX_EXAMPLES - min(MAX_EXAMPLES // 2, len(losses))]
    return [*chosen, *losses[: MAX_EXAMPLES - len(chosen)]], len(differ)


def show(place: int, arms: Mapping[str, Sequence[ArmRun]], full: str, folders: Sequence[Path]) -> ExampleItem:
    """The item at a place: what was asked, what every arm said, and the images that one of `folders` kept."""
    row = arms[full][0].predictions[place]
    replies = {name: seeds[0].predictions[place] for name, seeds in arms.items()}
    images = next((found for folder in folders if (found := find_images(folder, row.id))), [])
    return ExampleItem(row, readable(row.prompt), replies, images)


def save_images(folder: Path, item: Item, rollout: Rollout | None = None, image_folder: Path | None = None) -> None:
    """Write the item's images as the model got them below `folder`, and as strips its rollout and what did happen."""
    try:
        images = open_images(item, image_folder)
        frames = list(rollout(item)) if rollout is not None and images else []
        last = len(item.clip) - 1
        count = len(frames) or min(MAX_FRAMES, last + 1 - item.frame)
        truth = [open_image(item.clip[min(item.frame + n, last)]) for n in range(count)] if item.clip else []
    except BadSample:
        return  # the item failed for it, and says so
    shown = {str(number): image.copy() for number, image in enumerate(images, start=1)}  # may be the data set's own
    for image in shown.values():
        image.thumbnail((SIDE, SIDE))
    shown |= {name: strip(of) for name, of in (("rollout", frames), ("truth", truth)) if of}
    for name, image in shown.items():
        buffer = BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        write_bytes(folder / EXAMPLES / f"{digest_of(item.id)}-{name}.png", buffer.getvalue())


def find_images(folder: Path, id: str) -> list[tuple[str, Path]]:
    """What each image of an item shows, and its file, of those that were kept."""
    found = {path.stem.partition("-")[2]: path for path in sorted((folder / EXAMPLES).glob(f"{digest_of(id)}-*.png"))}
    return [(LABELS.get(name) or (f"Image {name}" if "2" in found else "Image"), path) for name, path in found.items()]


def strip(frames: Sequence[Image.Image]) -> Image.Image:
    """At most `MAX_FRAMES` of the frames, the first and the last among them, side by side."""
    places = np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int).tolist()
    size = (max(frames[0].width * FRAME // frames[0].height, 1), FRAME)
    # Few pixels stay the squares that the model sees
    how = Image.Resampling.NEAREST if frames[0].height < FRAME else Image.Resampling.LANCZOS
    sheet = Image.new("RGB", ((size[0] + 2) * len(places) - 2, FRAME), "white")
    for number, place in enumerate(places):
        sheet.paste(frames[place].convert("RGB").resize(size, how), (number * (size[0] + 2), 0))
    return sheet


__all__ = ["ExampleItem", "Rollout", "draw_examples", "find_images", "save_images", "show", "strip"]
