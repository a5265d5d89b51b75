"""Visual Spatial Reasoning: is a statement about two objects of a COCO image true? Answered by "0" or "1".

Liu, Emerson and Collier, TACL 2023. Each line of train.jsonl, dev.jsonl and test.jsonl has `image`, `caption`, `label`
and `relation`; the images are those of COCO 2017, in one flat folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from theworld.utils.errors import MissingFileError

from ..schema import BadSample, Example, SourceSettings
from .files import load_rows
from .records import Row, RowReader

QUESTION_TEMPLATE = "Statement: {caption}\nAnswer (only '0' or '1'):"
CHOICES = ("0", "1")

META_CATEGORIES = {
    "Adjacency": "adjacent to, ahead of, against, alongside, at the back of, at the edge of, at the left side of, "
    "at the right side of, at the side of, attached to",
    "Directional": "across, across from, along, around, away from, deep down, down, down from, from, into, off, past, "
    "through, to, toward, up",
    "Orientation": "facing, facing away from, parallel to, perpendicular to",
    "Projective": "above, behind, below, beneath, beside, in front of, in the middle of, left of, on top of, over, "
    "right of, under",
    "Proximity": "by, close to, far away from, far from, near",
    "Topological": "at, between, connected to, consists of, contains, detached from, has as a part, in, inside, on, "
    "out of, outside, part of, surrounding, touching, with, within",
    "Unallocated": "after, among, beyond, enclosed by, next to, opposite to",
}
"""The authors' groups of relations; a relation in no group is unallocated."""

CATEGORY_OF = {relation: name for name, relations in META_CATEGORIES.items() for relation in relations.split(", ")}


def load_vsr(settings: SourceSettings) -> tuple[Any, RowReader]:
    """The statements at `settings.path`: a file, a folder that holds {split}.jsonl, or a Hub id.

    `image_folder` holds the images. `split` of a folder is train, dev or test; train by default. A file is one split.
    `question_template` may use every field of a row.
    """
    if settings.local.is_dir():
        path = settings.local / f"{settings.split or 'train'}.jsonl"
        if not path.is_file():
            raise MissingFileError(f"{path}: no such file; splits of 'vsr' are train, dev and test")
        settings = replace(settings, path=str(path), split=None)
    reader = _Reader("image", None, "label", settings.question_template, CHOICES, image_named=True)
    return load_rows(settings), reader


class _Reader(RowReader):
    def _example(self, row: Row, id: str) -> Example:
        image, relation = row.get("image"), row.get("relation") or ""
        if not isinstance(image, str) or not image.strip() or not isinstance(relation, str):
            raise BadSample("bad_row", f"image {image!r}, relation {relation!r}: expected a file name and a text")
        example = super()._example(row, id)
        more: dict[str, Any] = {
            "label": row["label"],
            "image_id": Path(image).stem,
            "meta_category": CATEGORY_OF.get(relation, "Unallocated"),
        }
        return replace(example, metadata=example.metadata | more)
