"""Datasets of the Hugging Face library, indexed or streamed, as data sources."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from logging import CRITICAL
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from torch.utils.data import IterableDataset

from theworld.utils.errors import FileError, MissingFileError, TheWorldError, one_line
from theworld.utils.imports import require

from ..columns import CONVERSATION_KEYS, check_columns, template_fields
from ..schema import Example, Message, Skipped
from ..text_rows import Number
from .records import SAMPLE, IndexedRows, Reader, Row, RowReader, SourceRows

if TYPE_CHECKING:
    import datasets


class StreamedRows(SourceRows, IterableDataset["Example | Skipped"]):
    """A streamed source. Each worker of a DataLoader reads its own share of the shards.

    Several processes share the rows by `split_by_process`. The id of a row without an `id` is a hash of its content,
    because its position depends on the reading process. Errors refer to the data as `name`.
    """

    def __init__(self, rows: datasets.IterableDataset, reader: Reader, name: str = "") -> None:
        super().__init__(reader, rows.features)
        self._decode = row_decoder(rows.features)
        self.rows = rows.decode(False) if rows.features else rows
        self.name = name

    def __iter__(self) -> Iterator[Example | Skipped]:
        for row in self._decoded(self.rows):
            yield self.reader.read(row, content_id(row))

    def sample(self) -> Iterator[Any]:
        """The first rows."""
        return self._decoded(self.rows.take(SAMPLE))

    def take(self, count: int) -> Self:
        """The first `count` rows."""
        return self._of(self.rows.take(count))

    def split_by_process(self, rank: int, world_size: int) -> Self:
        """The share of process `rank` of `world_size`."""
        split = require("train", "datasets.distributed").split_dataset_by_node
        return self._of(split(self.rows, rank, world_size))

    def shuffle(self, seed: int, buffer_size: int = 1000) -> Self:
        """The rows in another order, drawn from a buffer of `buffer_size`."""
        return self._of(self.rows.shuffle(seed=seed, buffer_size=buffer_size))

    def set_epoch(self, epoch: int) -> None:
        """Shuffle in a new order for each epoch."""
        self.rows.set_epoch(epoch)

    def _decoded(self, rows: datasets.IterableDataset) -> Iterator[Any]:
        with naming(self.name):
            yield from map(self._decode, rows)

    def _of(self, rows: datasets.IterableDataset) -> Self:
        other = copy(self)
        other.rows = rows
        return other


def HFDatasetWrapper(
    ds: datasets.Dataset | datasets.IterableDataset,
    image_key: str | None = "image",
    text_key: str | None = "text",
    label_key: str | None = "label",
    *,
    question_template: str | None = None,
) -> IndexedRows | StreamedRows:
    """A Hugging Face dataset as a data source: indexed, or streamed if it is an `IterableDataset`.

    Images stay undecoded until the collator opens them. Class numbers in the label become class names, and the class
    names become the choices. The keys name the columns of image (or images), question and answer; a `question_template`
    of `str.format` with the row's own columns replaces `text_key`.

    ValueError, which lists the columns, if a column does not exist or `ds` is not a single split.
    """
    library = require("train", "datasets")
    if not isinstance(ds, library.Dataset | library.IterableDataset | dict):
        raise TheWorldError(f"{type(ds).__name__}: expected a datasets.Dataset or IterableDataset")
    source = wrap(ds, RowReader())
    features = source.features or {}
    if features:
        is_chat = any(key in features for key in CONVERSATION_KEYS)
        if is_chat and question_template is not None:
            raise TheWorldError("question_template: the data are conversations; leave it out")
        asked = [text_key] if question_template is None else template_fields(question_template)
        wanted = [image_key] if is_chat else [image_key, *asked, label_key]
        check_columns([key for key in wanted if key is not None], list(features))
    names = getattr(features.get(label_key or ""), "names", None) or ()  # of a ClassLabel
    keys = (image_key, text_key, label_key, question_template)
    source.reader = RowReader(*keys, tuple(names), class_numbers=bool(names), image_named=True)
    return source


def wrap(rows: Any, reader: Reader, name: str = "") -> IndexedRows | StreamedRows:
    """Rows of `datasets`, or a sequence, as a source; ValueError for several splits."""
    library = require("train", "datasets")
    if isinstance(rows, dict):
        raise TheWorldError(f"this is {len(rows)} splits, {', '.join(rows)}: pass one of them")
    if isinstance(rows, library.IterableDataset):
        return StreamedRows(rows, reader, name)
    if isinstance(rows, library.Dataset):
        undecoded = UndecodedRows(rows)
        return IndexedRows(undecoded, reader, undecoded.features)
    return IndexedRows(rows, reader)


@contextmanager
def naming(data: str) -> Generator[None]:
    """Turn errors of `datasets` and Arrow about unreadable data into one line that names `data`."""
    library, arrow = require("train", "datasets"), require("train", "pyarrow")
    try:
        yield
    except (ValueError, OSError, StopIteration, library.exceptions.DatasetsError, arrow.ArrowException) as error:
        reason = error.__cause__ or error if isinstance(error, library.exceptions.DatasetGenerationError) else error
        line = one_line(reason)
        if isinstance(reason, StopIteration) or "corresponds to no data" in line:  # the error of an empty file
            line = "no rows"
        line = line if data in line else f"{data}: {line}"
        if line == str(error):
            raise
        missing = isinstance(reason, FileNotFoundError)
        kind = MissingFileError if missing else FileError if isinstance(reason, OSError) else TheWorldError
        raise kind(line) from error


@contextmanager
def quiet() -> Generator[None]:
    """Show progress bars of `datasets` on a terminal only, and hide its log: errors are raised anyway."""
    logging, bars = require("train", "datasets.utils.logging"), require("train", "datasets.utils")
    level, hidden = logging.get_verbosity(), bars.are_progress_bars_disabled()
    try:
        logging.set_verbosity(CRITICAL)
        if not sys.stderr.isatty():
            bars.disable_progress_bars()
        yield
    finally:
        logging.set_verbosity(level)
        if not hidden:
            bars.enable_progress_bars()


class UndecodedRows(Sequence[Row]):
    """The rows of a dataset with images as bytes or paths; the user's own transform still runs."""

    def __init__(self, ds: datasets.Dataset) -> None:
        self._transformed = ds.format["type"] == "custom"
        self._rows = ds if self._transformed else ds.with_format("arrow")
        self._decode = row_decoder(ds.features)
        self.features = None if self._transformed else ds.features
        """Features of the columns; None with a transform, which may return other columns."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        row: Any = self._rows[index]
        return row if self._transformed else self._decode(row.to_pylist()[0])


def row_decoder(features: Any) -> Callable[[Any], Row]:
    """A function that decodes a stored row, except images, which the collator opens."""
    if not features:
        return lambda row: row
    library = require("train", "datasets")

    def keep_stored(feature: Any) -> Any:
        if isinstance(feature, library.Image | library.Audio | library.Video):
            return replace(feature, decode=False)
        if isinstance(feature, library.List | library.LargeList):
            return replace(feature, feature=keep_stored(feature.feature))
        if isinstance(feature, dict):
            return {name: keep_stored(value) for name, value in feature.items()}
        return feature

    # A copy, because switching off the decoding of a stream changes features that it shares with others
    decode = library.Features(keep_stored(dict(deepcopy(features)))).decode_example
    # float16 and float32, also in lists: converted to Python floats they would show more digits
    dtypes = {name: getattr(getattr(feature, "feature", feature), "dtype", None) for name, feature in features.items()}
    short = {name: np.dtype(dtype).type for name, dtype in dtypes.items() if dtype in ("float16", "float32")}

    def number(value: Any, kind: Any) -> Any:
        many = isinstance(value, list)
        return [number(item, kind) for item in value] if many else Number(kind(value)) if value is not None else None

    return lambda row: {n: number(value, short[n]) if n in short else value for n, value in decode(row).items()}


def content_id(row: Any) -> str:
    """A hash of 16 hex digits of a row, or of a list of rows."""

    def digest(value: Any) -> Any:
        if isinstance(value, Example | Skipped | Message):
            return vars(value)
        return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else type(value).__name__

    return hashlib.sha256(json.dumps(row, sort_keys=True, default=digest).encode()).hexdigest()[:16]
