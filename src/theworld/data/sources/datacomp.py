"""DataComp: images on the web with captions. An image is downloaded when its row is read.

A row whose image cannot be downloaded is `Skipped` with the cause. It is not replaced by another row, which would bias
the data and hide how much is missing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from theworld.utils.io import cache_folder

from ..columns import fill_template
from ..download import ImageStore
from ..schema import BadSample, Example, Message, Skipped, SourceSettings
from .files import load_rows
from .records import Row

PROMPTS = (
    "Describe this image.",
    "What does this image show?",
    "Write a caption for this image.",
    "Give a short description of the image.",
)
"""Without a `question_template`, the row's id selects one."""


@dataclass(frozen=True)
class DataCompReader:
    """Downloads the image of a row; the answer is its caption."""

    store: ImageStore
    question_template: str | None = None

    def read(self, row: Row, fallback_id: str) -> Example | Skipped:
        """The example with the path of its image, or a `Skipped` with the cause."""
        id = str(row.get("uid") or fallback_id)
        try:
            for column in ("url", "text"):
                if not isinstance(row.get(column), str) or not row[column].strip():
                    raise BadSample("bad_row", f"{column} is {row.get(column)!r}: expected text")
            prompt = self.question_template and fill_template(self.question_template, row)
            image = self.store.fetch(row["url"], row.get("sha256") or None)
        except BadSample as bad:
            return bad.skipped(id)
        prompt = prompt or PROMPTS[hashlib.sha256(id.encode()).digest()[0] % len(PROMPTS)]
        messages = (Message("user", prompt), Message("assistant", row["text"].strip()))
        metadata = {key: value for key, value in row.items() if key not in ("uid", "text")}
        return Example(id, messages, images=(image,), metadata=metadata)


def load_datacomp(settings: SourceSettings) -> tuple[Any, DataCompReader]:
    """Rows of metadata at `settings.path`; images are stored in `image_folder`, or in ~/.cache/theworld/images."""
    store = ImageStore(settings.image_folder or cache_folder() / "images")
    return load_rows(settings), DataCompReader(store, settings.question_template)
