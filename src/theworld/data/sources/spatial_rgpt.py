"""SpatialRGPT's conversations about regions of an image: OpenSpatialDataset to train on, SpatialRGPT-Bench to test.

Cheng et al., NeurIPS 2024. A training row has `filename` (of OpenImages, without its ending), a row of the benchmark
`id`, `image_info` and `qa_info`; both have `conversations`, `bbox` and `rle`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from theworld.utils.errors import TheWorldError

from ..open_spatial import MANIFEST, read_indexed
from ..regions import Region, number_regions
from ..schema import IMAGE_MARKER, BadSample, Example, Message, SourceSettings
from ..text_rows import parse_json
from .files import load_rows
from .hf_dataset import wrap
from .records import Row, RowReader, read_conversation

# Largest .json file that is scanned at every start: the benchmark has 5 MB, OpenSpatialDataset 31.9 GB
MAX_ARRAY_BYTES = 256 * 2**20
NESTED = ("conversations", "bbox", "rle", "image_info", "qa_info")  # tables hold these as text of Python or JSON


def load_spatial_rgpt(settings: SourceSettings) -> tuple[Any, RowReader]:
    """The conversations at `settings.path`.

    Questions and answers refer to a region by the number of its label on the image. The example's `metadata` has the
    `regions` in the order of their numbers, and as `draw_regions` whether to draw them.

    Args:
        settings: `path` is a folder that `index_open_spatial` made, a JSON lines file, a small JSON array, a Parquet
            file, or a Hub id or folder of Hugging Face datasets. `image_folder` holds the images, unless the rows do.
            `question_template` rephrases every `{question}`, and may use the row's own fields.
    """
    rows = _rows(settings, settings.local)
    reader = _Reader(question_template=settings.question_template, draw=settings.draw_bboxes)
    if settings.image_folder is None and "image" not in wrap(rows, reader).columns():
        raise TheWorldError("dataset 'spatial_rgpt' needs image_folder: the folder of the images that its rows name")
    return rows, reader


@dataclass(frozen=True)
class _Reader(RowReader):
    draw: bool = True

    def _example(self, row: Row, id: str) -> Example:
        row = {name: _parsed(value) if name in NESTED else value for name, value in row.items()}
        messages, _ = read_conversation(row.get("conversations"))
        messages, regions = number_regions(_checked(messages), _regions(row))
        if self.question_template is not None:
            messages = [
                Message("user", self._prompt({**row, "question": m.content})) if m.role == "user" else m
                for m in messages
            ]
        qa_info: Any = row.get("qa_info") or {}
        if not isinstance(qa_info, Mapping):
            raise BadSample("bad_row", f"qa_info {str(qa_info)[:80]}: expected an object")
        return Example(
            id=id,
            messages=tuple(messages),
            images=(_image(row),),
            metadata={
                "regions": regions,
                "draw_regions": self.draw and bool(regions),
                "qa_type": qa_info.get("type"),
                "qa_category": qa_info.get("category"),
                "question": messages[0].content,
                "ground_truth": messages[1].content,
            },
        )


def _rows(settings: SourceSettings, path: Path) -> Any:
    if (path / MANIFEST).is_file():
        return read_indexed(path)
    if path.suffix == ".json" and path.is_file() and path.stat().st_size > MAX_ARRAY_BYTES:
        raise TheWorldError(
            f"{path}: one JSON array of {path.stat().st_size / 1e9:.1f} GB; index it once: "
            f"python scripts/convert_open_spatial.py {path} {path.with_suffix('')}"
        )
    return load_rows(settings)


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError:
        pass
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise BadSample("bad_row", f"{value[:80]!r}: neither JSON nor Python ({type(error).__name__})") from error


def _checked(messages: Sequence[Message]) -> list[Message]:
    """Alternating questions and answers without image markers: the image is at the start of the first question."""
    roles = [message.role for message in messages]
    if roles != ["user", "assistant"] * (len(messages) // 2):
        raise BadSample("bad_row", f"turns of {', '.join(roles)}: expected question and answer in turn")
    return [Message(m.role, m.content.replace(IMAGE_MARKER, "").strip()) for m in messages]


def _regions(row: Row) -> list[Region]:
    boxes: Any
    masks: Any
    boxes, masks, info = row.get("bbox") or [], row.get("rle") or [], row.get("image_info") or {}
    if not all(isinstance(value, list | tuple) for value in (boxes, masks)) or not isinstance(info, Mapping):
        raise BadSample("bad_row", "bbox and rle: expected lists")
    if boxes and masks and len(boxes) != len(masks):
        raise BadSample("bad_row", f"{len(boxes)} boxes, but {len(masks)} masks")
    size = {"size": [info["height"], info["width"]]} if {"height", "width"} <= set(info) else {}
    regions: list[Region] = []
    for box, rle in zip_longest(boxes, masks):
        if (boxes and not isinstance(box, list | tuple)) or (masks and not isinstance(rle, dict)):
            wrong = str(rle if isinstance(box, list | tuple) else box)
            raise BadSample("bad_row", f"region {wrong[:80]!r}: expected a box or a run-length mask")
        regions.append(size | ({"box": list(box)} if boxes else {}) | ({"rle": rle} if masks else {}))
    return regions


def _image(row: Row) -> Any:
    """The image of a row: its own, the benchmark's path, or the OpenImages id."""
    if row.get("image") is not None:
        return row["image"]
    path = (row.get("image_info") or {}).get("file_path")
    if path is None and row.get("filename"):
        path = f"{row['filename']}.jpg"
    if not isinstance(path, str):
        raise BadSample("bad_row", "no image: expected image, image_info.file_path or filename")
    return path
