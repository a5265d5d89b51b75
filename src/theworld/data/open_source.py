"""Opens a dataset by name, several datasets as a mixture, or the user's own object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.hub import HUB_ID, warn_of_hub
from theworld.utils.imports import require

from .columns import check_columns, template_fields
from .mixture import Mixture, MixturePart
from .schema import Example, Skipped, SourceSettings
from .sources import SOURCES, SourceKind
from .sources.hf_dataset import StreamedRows, content_id, naming, wrap
from .sources.records import IndexedRows, RowReader, reader_of

Source = IndexedRows | StreamedRows  # rows with a length, read in any order; or a stream

ALWAYS = ("path", "num_samples", "seed")  # settings that every dataset uses


def open_source(name: str, settings: SourceSettings) -> Source:
    """The rows of a dataset, each an `Example`, or a `Skipped` if it is not usable."""
    kind = SOURCES.get(name)
    if kind is None:
        raise TheWorldError(f"dataset_name={name!r}: expected one of {', '.join(SOURCES)}")
    if settings.clip_frames is not None and "clip_frames" not in kind.uses:
        videos = " or ".join(other for other in SOURCES if "clip_frames" in SOURCES[other].uses)
        raise TheWorldError(f"dataset {name!r} has no clip: objective 'align' needs a source of videos, {videos}")
    settings.refuse(name, *(field for field in vars(settings) if field not in (*kind.uses, *ALWAYS)))
    _check_paths(name, kind, settings)
    if kind.file_is_split and settings.split is not None and settings.local.is_file():
        raise TheWorldError(f"split={settings.split!r}: {settings.local} is one file, so one split; remove split")
    template = settings.question_template or kind.template
    with naming(str(settings.path)):
        rows, reader = kind.load(replace(settings, question_template=template))
        source = _taken(wrap(rows, reader, str(settings.path)), settings)
        wanted = [*kind.needs, *(template_fields(template) if template else ())]
        if wanted:
            check_columns(wanted, [*kind.fields, *source.columns()])
        if isinstance(source, IndexedRows) and not len(source):
            raise TheWorldError("no rows")
    return source


def open_mixture(parts: Sequence[tuple[str, SourceSettings, float]]) -> Mixture:
    """Several datasets as one. `parts` are `(name, settings, weight)`; the weight sets the share of an epoch.

    Each dataset has its own `image_folder`. The seed is that of the first dataset. Raises as `open_source` and
    `Mixture`, and a ValueError for a stream.
    """
    opened: list[MixturePart] = []
    for name, settings, weight in parts:
        source = open_source(name, settings)
        if isinstance(source, StreamedRows):
            raise TheWorldError(f"{settings.path}: a mixture needs rows with a length; set streaming to false")
        opened.append(MixturePart(name, source, weight, settings.image_folder, str(settings.path)))
    return Mixture(opened, parts[0][1].seed if parts else 0)


def as_source(data: Any, settings: SourceSettings | None = None) -> Source | Mixture:
    """The user's own object as a source.

    It is a list of dicts, a `datasets.Dataset` or `IterableDataset`, a `torch.utils.data.Dataset` or `IterableDataset`
    whose rows are dicts or `Example`, or a source, which is returned unchanged. Settings other than `columns`,
    `question_template`, `image_folder` and `num_samples` raise a ValueError.
    """
    settings = settings or SourceSettings()
    uses = ("columns", "question_template", "image_folder", "num_samples", "seed")
    settings.refuse("train_dataset", *(field for field in vars(settings) if field not in uses))
    library = require("train", "datasets")
    if isinstance(data, Mixture | IndexedRows | StreamedRows):
        settings.refuse("train_dataset", "columns", "question_template")
        return data if settings.num_samples is None else _taken(data, settings)
    if isinstance(data, IterableDataset):
        data = library.IterableDataset.from_generator(_rows_of, gen_kwargs={"data": [data]})
    if not isinstance(data, Sequence | Dataset | dict | library.Dataset | library.IterableDataset) or isinstance(
        data, str
    ):
        raise TheWorldError(
            f"train_dataset of type {type(data).__name__}: expected a list of dicts, a Dataset or an IterableDataset"
        )
    source = _taken(wrap(data, RowReader()), settings)
    first = next(source.sample(), None)
    if first is None:
        raise TheWorldError("train_dataset: no rows")
    if not isinstance(first, Example | Skipped):
        source.reader = reader_of(source, settings)
    return source


def rows_fingerprint(data: Any) -> str:
    """A hash of a sample of rows without their images; empty for a stream, or if reading rows again gives others."""
    sources = [part.rows for part in data.parts] if isinstance(data, Mixture) else [data]
    indexed = [source for source in sources if isinstance(source, IndexedRows)]
    first, again = (content_id([list(islice(rows.sample(), 0, None, 8)) for rows in indexed]) for _ in range(2))
    return first if first == again else ""


def _rows_of(data: list[Any]) -> Any:
    for rows in data:
        yield from rows


def _taken(source: Any, settings: SourceSettings) -> Any:
    return source if settings.num_samples is None else source.take(settings.num_samples)


def _check_paths(name: str, kind: SourceKind, settings: SourceSettings) -> None:
    folder = settings.image_folder
    if settings.path is None:
        raise TheWorldError(f"dataset {name!r} needs train_dataset_path (`theworld evaluate`: --data): {kind.path}")
    path = settings.local
    if not path.exists() and not (kind.hub and kind.hub.fullmatch(settings.path)):
        where = ", and not the id of a dataset on the Hub" if kind.hub else f"; expected {kind.path}"
        raise MissingFileError(f"{path}: no such file or folder{where}")
    if kind.hub is HUB_ID:
        warn_of_hub(settings.path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise MissingFileError(f"{path}: a special file; expected {kind.path}")
    if folder is None and kind.images == "needed":
        raise TheWorldError(f"dataset {name!r} needs image_folder: the folder of the images that its rows name")
    if folder is not None and kind.images != "made" and not folder.is_dir():
        raise MissingFileError(f"image_folder={folder}: no such folder")
