"""Regions of an image: numbered in the text, and drawn with the same numbers on the image.

A region is a dict of plain values: `box` [x1, y1, x2, y2] and/or `rle`, a COCO run-length mask {"size": [H, W],
"counts"}, which has priority; `size` [H, W] is the size of the image that a box was measured on, if the row gives it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from theworld.utils.image_decoding import MAX_PIXELS
from theworld.utils.imports import require

from .schema import BadSample, Message

Region = dict[str, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Box = tuple[int, int, int, int]

COLOURS = (
    *((255, 60, 60), (60, 230, 80), (80, 150, 255), (255, 220, 30)),
    *((255, 80, 230), (60, 235, 235), (255, 145, 40), (190, 130, 255)),
)
INK = (15, 15, 15)

# Pixels. Images with a shorter side below the first are enlarged, so that labels stay readable after resizing. Images
# with a longer side above the second are reduced, to save time. Neither takes the other side past its own bound
SMALLEST_SIDE, LARGEST_SIDE = 448, 1792

_REFERENCE = re.compile(r"<mask>(?:\s*<depth>)?|(region) \[(\d+)\]", re.IGNORECASE)


def number_regions(messages: Sequence[Message], regions: Sequence[Region]) -> tuple[list[Message], list[Region]]:
    """Give regions the same numbers in questions, answers and drawn labels.

    The k-th `<mask>` of the whole conversation is `regions[k]`, while "Region [n]" is the n-th `<mask>` of its own
    turn. Both become "Region [g]", where `g` counts distinct regions. Without any `<mask>`, "Region [n]" is
    `regions[n]`. Returns the messages, and the distinct regions in the order of their numbers.

    BadSample `bad_row` if masks and regions differ in number, or a reference has no region.
    """
    keys = [repr(region.get("box") or region.get("rle")) for region in regions]
    different = list(dict.fromkeys(keys))
    numbers = [different.index(key) for key in keys]
    counts = [len(re.findall("<mask>", message.content)) for message in messages]
    if any(counts) and sum(counts) != len(regions):
        raise BadSample("bad_row", f"{sum(counts)} <mask> in the text, but {len(regions)} regions")
    numbered: list[Message] = []
    named, used = numbers, 0
    for message, count in zip(messages, counts, strict=True):
        if message.role == "user" and any(counts):
            named = numbers[used : used + count]
            used += count
        elif count:
            raise BadSample("bad_row", f"<mask> in the answer {message.content[:80]!r}; expected Region [n]")
        numbered.append(Message(message.role, _renumber(message.content, named)))
    return numbered, [regions[keys.index(key)] for key in different]


def draw_regions(image: Image.Image, regions: Sequence[Region]) -> Image.Image:
    """Draw every region's outline and its label "Region [k]" on a copy of an RGB image.

    The number sets the colour. Lines and labels have a dark rim, so that they are visible on any background. An image
    with a side below `SMALLEST_SIDE` is enlarged first, one with a side above `LARGEST_SIDE` reduced.

    Raises:
        BadSample: `bad_region` for a region without area in the image, `size_mismatch` for a region that was measured
            on an image of another shape.
    """
    shape = (image.height, image.width)
    scale = sorted((1.0, SMALLEST_SIDE / min(shape), LARGEST_SIDE / max(shape)))[1]  # the middle value; 1 is no change
    scale = min(scale, LARGEST_SIDE / math.sqrt(image.width * image.height))  # for long strips
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # 1. Resize the image, and scale the masks to it
    canvas = image.resize(size, Image.Resampling.LANCZOS)
    masks = [_mask(region, shape, canvas.size) for region in regions]
    # 2. Draw outlines, then labels
    pixels = np.array(canvas)
    width = max(2, round(min(canvas.size) / 160))
    for number in sorted(range(len(masks)), key=lambda number: -int(masks[number].sum())):  # small regions last, on top
        _draw_outline(pixels, masks[number], COLOURS[number % len(COLOURS)], width)
    drawn = Image.fromarray(pixels)
    _draw_labels(drawn, [_bounds(mask) for mask in masks])
    return drawn


def _renumber(text: str, named: Sequence[int]) -> str:
    masks = iter(named)

    def replace(match: re.Match[str]) -> str:
        if match[2] is None:
            return f"Region [{next(masks)}]"
        if int(match[2]) >= len(named):
            raise BadSample("bad_row", f"{match[0]} in {text[:80]!r}, but its turn names {len(named)} regions")
        return f"{match[1]} [{named[int(match[2])]}]"

    return _REFERENCE.sub(replace, text)


def _mask(region: Region, shape: tuple[int, int], size: tuple[int, int]) -> Mask:
    """The region on a canvas of `size` (width, height), which shows an image of `shape` (H, W)."""
    rle, box = region.get("rle"), region.get("box")
    measured = (rle or {}).get("size") or region.get("size") or shape
    if len(measured) != 2 or not all(isinstance(side, int) and side > 0 for side in measured):
        raise BadSample("bad_region", f"region of an image of size {measured}: expected [height, width]")
    if abs(measured[0] * shape[1] - measured[1] * shape[0]) > 0.02 * measured[0] * shape[1]:
        raise BadSample(
            "size_mismatch",
            f"regions measured on {measured[1]} x {measured[0]} pixels, but the image has {shape[1]} x {shape[0]}",
        )
    mask = np.zeros((size[1], size[0]), dtype=bool)
    if rle:
        mask = np.asarray(Image.fromarray(_decode_rle(rle)).resize(size, Image.Resampling.NEAREST))
    if box and not mask.any():
        mask = _filled_box(box, measured, size)
    if not mask.any():
        raise BadSample("bad_region", f"region {str(region)[:120]} has no area within the image")
    return mask


def _decode_rle(rle: dict[str, Any]) -> Mask:
    coco = require("train", "pycocotools.mask")
    height, width = rle["size"]
    if height * width > MAX_PIXELS:
        raise BadSample("bad_region", f"run-length mask of {width} x {height} pixels, expected at most {MAX_PIXELS:,}")
    try:
        runs = rle["counts"]
        complete = sum(runs) == height * width if isinstance(runs, list) else True
        encoded = coco.frPyObjects(rle, height, width) if isinstance(runs, list) else rle
        mask, area = coco.decode(encoded), coco.area(encoded)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise BadSample("bad_region", f"run-length mask that cannot be read ({error!r})") from error
    if not complete or mask.max() > 1 or mask.sum(dtype=np.int64) != area:  # otherwise the rest is uninitialised memory
        raise BadSample("bad_region", f"run-length mask that does not fill its {width} x {height} pixels")
    return mask.astype(bool)


def _filled_box(box: Sequence[Any], measured: Sequence[int], size: tuple[int, int]) -> Mask:
    """Mask of a box in pixels of an image of `measured` (H, W), clamped to the canvas."""
    if len(box) != 4 or not all(isinstance(value, int | float) and math.isfinite(value) for value in box):
        raise BadSample("bad_region", f"box {str(box)[:120]}: expected [x1, y1, x2, y2] in pixels")
    across, down = size[0] / measured[1], size[1] / measured[0]
    left, top = math.floor(max(0, box[0] * across)), math.floor(max(0, box[1] * down))
    right, bottom = math.ceil(max(0, box[2] * across)), math.ceil(max(0, box[3] * down))
    mask = np.zeros((size[1], size[0]), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def _bounds(mask: Mask) -> Box:
    """The smallest box (left, top, right, bottom) around a mask; right and bottom are exclusive."""
    box = Image.fromarray(mask).getbbox()
    assert box is not None  # as `_mask` checks
    return box


def _grow(mask: Mask, width: int) -> Mask:
    """The mask, grown by `width` pixels along rows and columns."""
    for _ in range(2):
        mask, window = np.pad(mask.T, ((width, width), (0, 0))), 1
        while window < 2 * width + 1:  # the window doubles with every step
            step = min(window, 2 * width + 1 - window)
            mask, window = mask[:-step] | mask[step:], window + step
    return mask


def _draw_outline(pixels: np.ndarray[Any, Any], mask: Mask, colour: tuple[int, int, int], width: int) -> None:
    """A line of `width` along the inner edge of the mask, with a rim of ink on either side."""
    rim = max(1, width // 2)
    left, top, right, bottom = _bounds(mask)
    view = (slice(max(0, top - rim), bottom + rim), slice(max(0, left - rim), right + rim))
    mask = np.pad(mask[view], 1)  # a region at the border has an edge there too
    line = mask & _grow(~mask, width)
    edge = (slice(1, -1), slice(1, -1))
    pixels[view][_grow(line, rim)[edge]] = INK
    pixels[view][line[edge]] = colour


def _draw_labels(image: Image.Image, bounds: Sequence[Box]) -> None:
    draw = ImageDraw.Draw(image)
    longest = f"Region [{len(bounds)}]"
    font_size = max(14.0, 0.036 * min(image.size))
    fitting = font_size * 0.9 * image.width / draw.textlength(longest, ImageFont.load_default(font_size))
    font_size = max(1.0, min(font_size, fitting))  # FreeType has no smaller size
    font = ImageFont.load_default(font_size)
    pad = max(2, round(font_size / 6))
    placed: list[Box] = []
    for number in range(len(bounds)):
        text, colour = f"Region [{number}]", COLOURS[number % len(COLOURS)]
        size = (round(draw.textlength(text, font)) + 2 * pad, round(font_size) + 2 * pad)
        place = _place_label(size, bounds, number, placed, image.size)
        placed.append(place)
        left, top, right, bottom = place
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colour, outline=INK, width=max(1, pad // 2))
        draw.text(((left + right) / 2, (top + bottom) / 2), text, fill=INK, font=font, anchor="mm")


def _place_label(
    size: tuple[int, int], bounds: Sequence[Box], own: int, placed: Sequence[Box], canvas: Sequence[int]
) -> Box:
    """A place where the label covers no other label and no small region, as near to its own region as possible."""
    (width, height), (left, top, right, bottom) = size, bounds[own]
    beside = [(left, top - height), (left, bottom), (right - width, top - height), (right - width, bottom), (left, top)]
    grid = [(x, y) for y in range(0, canvas[1], height) for x in range(0, canvas[0], width)]
    grid.sort(key=lambda at: abs(at[0] + width / 2 - (left + right) / 2) + abs(at[1] + height / 2 - (top + bottom) / 2))
    fewest, best = math.inf, (0, 0, width, height)
    for x, y in beside + grid:
        x, y = max(0, min(x, canvas[0] - width)), max(0, min(y, canvas[1] - height))
        place = (x, y, x + width, y + height)
        hidden = sum(4 * _overlap(place, region) > _area(region) for region in bounds)
        cost = len(bounds) * sum(_overlap(place, label) for label in placed) + hidden
        if cost < fewest:
            fewest, best = cost, place
        if not cost:
            break
    return best


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(one: Box, other: Box) -> int:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, across) * max(0, down)
