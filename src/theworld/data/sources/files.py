"""The user's own data: a JSON, JSONL, CSV, TSV or Parquet file, a folder, or a Hub id.

`text_rows` reads text files without type inference; Hugging Face datasets reads everything else. Columns are recognised
by their names (`theworld.data.columns`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

from torch.utils.data import ConcatDataset, Subset

from theworld.utils.errors import TheWorldError
from theworld.utils.imports import require

from ..schema import IMAGE_SUFFIXES, SourceSettings
from ..text_rows import DELIMITERS, TextFile, TextRows
from .hf_dataset import quiet, wrap
from .records import RowReader, reader_of

TEXT_SUFFIXES = (".json", ".jsonl", *DELIMITERS)
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # lists of the images of a folder and their texts
SAVED = ("state.json", "dataset_dict.json")  # files in a folder of `save_to_disk`


def load_custom(settings: SourceSettings) -> tuple[Any, RowReader]:
    """Rows and reader of `settings.path`.

    Args:
        settings: `path` is a .json (an array, or one row after the other), .jsonl, .csv, .tsv or .parquet file; a
            folder of images in sub-folders named by their class, or with a metadata.csv, .jsonl or .parquet; a folder
            of such files; a folder written by `save_to_disk`; or a Hub id. `split` may be a slice such as "train[:95%]"
            if rows are not streamed. Without an `image_folder`, image names are relative to the file.
    """
    path = settings.local
    folder, bracket, rest = (settings.split or "train").partition("[")
    inside = ((path, settings.split), (path / folder, f"train{bracket}{rest}"))  # a single file is the split train
    metadata, split = settings.path, settings.split
    for place, part in reversed(inside):
        if found := [place / name for name in METADATA if (place / name).exists()]:
            metadata, split = found[0], part
            if len(found) > 1 or not metadata.is_file():
                raise TheWorldError(f"{place}: expected one regular file of {', '.join(METADATA)}; remove the others")
    settings = replace(settings, path=str(metadata), split=split)
    rows = load_rows(settings)
    return rows, reader_of(wrap(rows, RowReader()), settings)


def load_rows(settings: SourceSettings) -> Any:
    """One split at `settings.path`: a `datasets.Dataset`, an `IterableDataset` when streaming, or `TextRows`."""
    library = require("train", "datasets")
    path = str(settings.path)
    local = settings.local
    if local.suffix in TEXT_SUFFIXES and local.is_file():
        return _text_rows(library, {"train": [TextFile.of(local)]}, settings)
    if local.is_dir() and any((local / name).is_file() for name in SAVED):
        return _saved(library, local, settings)
    if local.is_file():
        if local.suffix != ".parquet":
            raise TheWorldError(f"{local}: expected a folder or a file ending in {', '.join(TEXT_SUFFIXES)}, .parquet")
        return _built(library, settings, "parquet", data_files=str(local))
    if local.is_dir() and any(file.suffix.lower() in IMAGE_SUFFIXES for file in local.rglob("*")):
        return _built(library, settings, "imagefolder", data_dir=str(local))
    return _built(library, settings, str(local) if local.is_dir() else path)


def _built(library: Any, settings: SourceSettings, name: str, **options: Any) -> Any:
    """Rows of a builder of the library; text files are read here, because it would infer their types."""
    try:
        with quiet():
            builder = library.load_dataset_builder(name, **options)
    except FileNotFoundError as error:
        if not settings.local.is_dir():
            raise
        expected = ", ".join((*TEXT_SUFFIXES, ".parquet"))
        raise TheWorldError(
            f"{settings.local}: no data files there; expected files of {expected}, or images"
        ) from error
    files: Mapping[str, Any] = builder.config.data_files or {}
    if name == "imagefolder" and any(Path(file).name in METADATA for part in files.values() for file in part):
        raise TheWorldError("metadata in sub-folders; give the sub-folder that holds it, or its split")
    if settings.local.is_dir():
        kinds = builder.EXTENSIONS if name == "imagefolder" else None  # it reads only these suffixes
        read = (file for file in chain(*files.values()) if kinds is None or Path(file).suffix.lower() in kinds)
        _refuse_unread(settings.local, read)
    _refuse_casts(file for file in chain(*files.values()) if file.endswith(".parquet") and "://" not in file)
    if isinstance(builder, _text_builders()) and not builder.info.features:
        delimiter = getattr(builder.config, "sep", None)
        parts = {str(part): list(_fetched(library, files[part], delimiter, settings)) for part in files}
        return _text_rows(library, parts, settings)
    with quiet():
        if settings.streaming:
            rows = builder.as_streaming_dataset(settings.split)
        else:
            builder.download_and_prepare()
            rows = builder.as_dataset(settings.split)
    return rows[_only(rows)] if isinstance(rows, dict) else rows


def _refuse_unread(folder: Path, read: Iterable[str]) -> None:
    """Raise a ValueError for files of rows and images in `folder` that are not among those `read`."""
    known = {Path(file).resolve() for file in read}
    suffixes = (*TEXT_SUFFIXES, ".parquet", *IMAGE_SUFFIXES)
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes and not file.is_dir())
    names = [file.relative_to(folder).as_posix() for file in files if file.resolve() not in known]
    unread = [name for name in names if not re.search(r"(^|/)[._]", name)]  # hidden
    if unread:
        raise TheWorldError(
            f"{len(unread)} files would not be read, because Hugging Face datasets selects files by kind and name: "
            f"{', '.join(unread[:9])}; name one file or folder, or move them away"
        )


def _refuse_casts(files: Iterable[str]) -> None:
    """Raise a ValueError if a column has different types in Parquet files: values would be cast to the first type."""
    arrow, parquet = require("train", "pyarrow"), require("train", "pyarrow.parquet")
    known = arrow.schema([])
    for file in files:
        try:
            known = arrow.unify_schemas([known, parquet.read_schema(file)])
        except arrow.ArrowTypeError as error:
            raise TheWorldError(f"{file}: {error} in the files before it; write them with the same types") from error


def _text_builders() -> tuple[type, ...]:
    modules = "datasets.packaged_modules"
    return require("train", f"{modules}.json.json").Json, require("train", f"{modules}.csv.csv").Csv


def _fetched(library: Any, files: Iterable[str], delimiter: str | None, settings: SourceSettings) -> Iterator[TextFile]:
    """Text files of the Hub: streamed, or read from downloaded and unpacked copies."""
    manager = library.DownloadManager()
    for name in files:
        streamed = settings.streaming and name.endswith(TEXT_SUFFIXES)
        for copy in [name] if streamed else manager.iter_files([manager.download_and_extract(name)]):
            yield TextFile(copy, delimiter, name)


def _text_rows(library: Any, parts: Mapping[str, list[TextFile]], settings: SourceSettings) -> Any:
    """One split of text files, or slices of several: "train[:50%]+test"."""
    split = _only(parts) if settings.split is None else settings.split
    if settings.streaming:
        if split not in parts:
            raise TheWorldError(f"no split {split!r} to stream, it has {', '.join(parts)}")
        return library.IterableDataset.from_generator(_stream, gen_kwargs={"files": parts[split]})
    if split in parts:
        return TextRows.scan(parts[split])
    rows = {name: TextRows.scan(files) for name, files in parts.items()}
    try:
        slices = library.ReadInstruction.from_spec(split).to_absolute({name: len(part) for name, part in rows.items()})
    except AssertionError as error:  # raised for an unknown rounding
        raise TheWorldError(str(error)) from error
    return ConcatDataset([Subset(cast(Any, rows[part.splitname]), range(part.from_, part.to)) for part in slices])


def _stream(files: list[TextFile]) -> Iterator[Any]:
    for file in files:
        for _, row in file.rows():
            yield row


def _saved(library: Any, folder: Path, settings: SourceSettings) -> Any:
    saved = library.load_from_disk(str(folder))
    splits: dict[str, Any] = saved if isinstance(saved, dict) else {}
    if settings.split not in (None, *splits):
        there = f"the splits {', '.join(splits)}" if splits else "one split without a name"
        raise TheWorldError(f"no split {settings.split!r}, it holds {there}")
    rows = cast(Any, splits[settings.split or _only(splits)] if splits else saved)
    return rows.to_iterable_dataset() if settings.streaming else rows


def _only(splits: Mapping[Any, Any]) -> Any:
    """The split that is read if none is named."""
    if len(splits) > 1 and "train" not in splits:
        raise TheWorldError(f"several splits, {', '.join(splits)}, and none is called train: name one")
    return "train" if "train" in splits else next(iter(splits))
