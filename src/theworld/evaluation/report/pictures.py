"""What a question was asked about, kept small beside the predictions, so that a later report can show it too."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from theworld.data.schema import BadSample
from theworld.utils.io import write_bytes

from ..ask.prompts import open_images
from ..store.predictions import Item

EXAMPLES = "examples"
SIDE, FRAME, MAX_FRAMES = 320, 96, 9
"""Pixels of a picture's longer side and of a rollout's height; frames of a rollout that are shown."""

Rollout = Callable[[Item], Sequence[Image.Image]]
"""The decoded frames that the world model imagines for an item, the present one first."""


def save_pictures(folder: Path, item: Item, rollout: Rollout | None = None, image_folder: Path | None = None) -> None:
    """Write the item's pictures as the model got them, and its rollout as a strip, below `folder`."""
    try:
        images = open_images(item, image_folder)
    except BadSample:
        return  # the item failed for it, and says so
    for number, image in enumerate(images):
        small = image.copy()  # `image` may be the data set's own
        small.thumbnail((SIDE, SIDE))
        _write(folder / EXAMPLES / f"{_key(item.id)}-{number}.png", small)
    if rollout is not None and item.images:
        frames = list(rollout(item))
        if frames:
            _write(folder / EXAMPLES / f"{_key(item.id)}-rollout.png", strip(frames))


def find_pictures(folder: Path, id: str) -> tuple[Path, ...]:
    """The pictures of an item that were kept."""
    return tuple(sorted((folder / EXAMPLES).glob(f"{_key(id)}-[0-9]*.png")))


def find_rollout(folder: Path, id: str) -> Path | None:
    """The strip of an item's rollout, if it was kept."""
    path = folder / EXAMPLES / f"{_key(id)}-rollout.png"
    return path if path.is_file() else None


def strip(frames: Sequence[Image.Image]) -> Image.Image:
    """At most `MAX_FRAMES` of the frames, the first and the last among them, side by side."""
    count = min(len(frames), MAX_FRAMES)
    places = [round(number * (len(frames) - 1) / max(count - 1, 1)) for number in range(count)]
    scaled = [
        frames[place].convert("RGB").resize((max(frames[place].width * FRAME // frames[place].height, 1), FRAME))
        for place in places
    ]
    sheet = Image.new("RGB", (sum(frame.width + 2 for frame in scaled) - 2, FRAME), "white")
    left = 0
    for frame in scaled:
        sheet.paste(frame, (left, 0))
        left += frame.width + 2
    return sheet


def _key(id: str) -> str:
    return hashlib.sha256(id.encode()).hexdigest()[:16]  # an id may hold what a file name cannot


def _write(path: Path, image: Image.Image) -> None:
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


__all__ = ["Rollout", "find_pictures", "find_rollout", "save_pictures", "strip"]
