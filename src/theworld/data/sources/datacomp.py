"""DataComp: captions of images that are still on the web, or were; each is downloaded when its row is read.

A row whose image cannot be had is `Skipped` with the cause. No other row stands in for it: what is easy to download
would count twice, and nobody would know how much is missing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from theworld.utils.io import cache_folder

from ..download import ImageStore
from ..schema import BadSample, Example, Message, SourceSettings
from .files import load_rows
from .records import Row, RowReader

PROMPTS = (
    "Describe this image.",
    "What does this image show?",
    "Write a caption for this image.",
    "Give a short description of the picture.",
)
"""One of them, by the row's id, where there is no `question_template`."""


@dataclass(frozen=True)
class DataCompReader(RowReader):
    """Downloads the image of a row, and asks for its caption.

    Args:
        store: Where the images go.
    """

    id_key: str = "uid"
    store: ImageStore = field(kw_only=True)

    def _example(self, row: Row, id: str) -> Example:
        for column in ("url", "text"):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise BadSample("bad_row", f"{column} is {row.get(column)!r}: expected text")
        image = self.store.fetch(row["url"], row.get("sha256") or None)
        drawn = PROMPTS[hashlib.sha256(id.encode()).digest()[0] % len(PROMPTS)]
        prompt = drawn if self.question_template is None else self._prompt(row)
        messages = (Message("user", prompt), Message("assistant", row["text"].strip()))
        metadata = {key: value for key, value in row.items() if key not in ("uid", "text")}
        return Example(id, messages, images=(image,), metadata=metadata)


def load_datacomp(settings: SourceSettings) -> tuple[Any, DataCompReader]:
    """Rows of metadata at `settings.path`: a Parquet file, a folder of them, or a Hub id.

    Args:
        settings: Images are kept in `image_folder`, or in ~/.cache/theworld/images.
    """
    store = ImageStore(settings.image_folder or cache_folder() / "images")
    return load_rows(settings), DataCompReader(question_template=settings.question_template, store=store)
