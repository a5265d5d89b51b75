"""Examples for a report: items on which arms disagree, with their images.

Reduced images are saved beside the predictions, so that later reports can show them.
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
"""Pixels of an image's longer side; pixels of the height of a strip of frames; largest number of frames in a strip."""

LABELS = {
    "current": "Current frame, decoded from the world latents",
    "rollout": "Rollout of the world model, from the current frame on",
    "truth": "True frames",
}
Rollout = Callable[[Item], Sequence[Image.Image]]
"""Returns the decoded frames of an item's rollout, the current frame first."""


@dataclass(frozen=True)
class ExampleItem:
    """An item on which arms disagree."""

    row: Prediction  # the full model's
    question: str  # the prompt without control tokens
    replies: Mapping[str, Prediction]  # by arm
    images: Sequence[tuple[str, Path]]  # caption and file


def draw_examples(arms: Mapping[str, Sequence[ArmRun]], full: str, decisive: Collection[str]) -> tuple[list[int], int]:
    """Draw items on which the scores of the full model and an arm of `decisive` differ.

    If possible, the full model is right on half of them. Items are drawn by the hash of their ids, so the sample is
    random but the same for the same predictions.

    Returns:
        Indices of the drawn items, and the number of all items with different scores.
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
    """The item with index `place`: question, output of every arm, and images saved in one of `folders`."""
    row = arms[full][0].predictions[place]
    replies = {name: seeds[0].predictions[place] for name, seeds in arms.items()}
    images = next((found for folder in folders if (found := find_images(folder, row.id))), [])
    return ExampleItem(row, readable(row.prompt), replies, images)


def save_images(folder: Path, item: Item, rollout: Rollout | None = None, image_folder: Path | None = None) -> None:
    """Save the item's images below `folder`, and strips of its rollout and of the true frames."""
    try:
        images = open_images(item, image_folder)
        frames = list(rollout(item)) if rollout is not None and images else []
        last = len(item.clip) - 1
        count = len(frames) or min(MAX_FRAMES, last + 1 - item.frame)
        truth = [open_image(item.clip[min(item.frame + n, last)]) for n in range(count)] if item.clip else []
    except BadSample:
        return  # the prediction failed for the same reason and is reported there
    shown = {str(number): image.copy() for number, image in enumerate(images, start=1)}  # keep the dataset's images
    for image in shown.values():
        image.thumbnail((SIDE, SIDE))
    imagined = "rollout" if len(frames) > 1 else "current"
    shown |= {name: strip(of) for name, of in ((imagined, frames), ("truth", truth)) if of}
    for name, image in shown.items():
        buffer = BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        write_bytes(folder / EXAMPLES / f"{digest_of(item.id)}-{name}.png", buffer.getvalue())


def find_images(folder: Path, id: str) -> list[tuple[str, Path]]:
    """Caption and file of each saved image of an item."""
    found = {path.stem.partition("-")[2]: path for path in sorted((folder / EXAMPLES).glob(f"{digest_of(id)}-*.png"))}
    return [(LABELS.get(name) or (f"Image {name}" if "2" in found else "Image"), path) for name, path in found.items()]


def strip(frames: Sequence[Image.Image]) -> Image.Image:
    """At most `MAX_FRAMES` evenly spaced frames side by side, including the first and the last."""
    places = np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int).tolist()
    size = (max(frames[0].width * FRAME // frames[0].height, 1), FRAME)
    # Few pixels stay the squares that the model sees
    how = Image.Resampling.NEAREST if frames[0].height < FRAME else Image.Resampling.LANCZOS
    sheet = Image.new("RGB", ((size[0] + 2) * len(places) - 2, FRAME), "white")
    for number, place in enumerate(places):
        sheet.paste(frames[place].convert("RGB").resize(size, how), (number * (size[0] + 2), 0))
    return sheet


__all__ = ["ExampleItem", "Rollout", "draw_examples", "find_images", "save_images", "show", "strip"]
