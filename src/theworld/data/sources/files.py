"""The user's own data: a JSON, JSONL, CSV or Parquet file, a folder, or a Hub id, read by Hugging Face datasets.

Which column means what is guessed by its name (`QUESTIONS`, `ANSWERS`, `IMAGES`, `messages` or `conversations`).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from theworld.utils.imports import require

from ..schema import SourceSettings
from .hf_dataset import StreamedRows, quiet, wrap
from .records import CONVERSATION_KEYS, IndexedRows, RowReader

QUESTIONS = ("question", "prompt", "text", "caption")
ANSWERS = ("answer", "label", "response")
IMAGES = ("image", "images", "file_name")
CAPTIONS = ("caption", "text")
"""The answer where no column of `ANSWERS` is there: pictures with captions."""

CAPTION_QUESTION = "Describe this image."
CLASS_QUESTION = "What does this image show? Answer with one of: {names}."

BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_custom(settings: SourceSettings) -> IndexedRows | StreamedRows:
    """The rows at `settings.path`.

    Args:
        settings: `path` is a .json (an array), .jsonl, .csv, .tsv or .parquet file; a folder of pictures in sub-folders
            named by their class, or with a metadata.csv or .jsonl; a folder of such files; a folder written by
            `save_to_disk`; or a Hub id. `split` may be a slice such as "train[:95%]" where rows are not streamed.
            Without an `image_folder` names are looked up beside the file.

    Raises:
        ValueError: The file cannot be parsed, the split is not there, or no columns can be told apart; lists them.
        FileNotFoundError: There is nothing at `path`.
    """
    if settings.path is None:
        raise ValueError(
            "dataset 'custom' needs train_dataset_path (`theworld evaluate`: --data): a file, a folder or a Hub id"
        )
    rows = load_rows(settings, settings.path)
    local = Path(settings.path).expanduser()
    folder = (local if local.is_dir() else local.parent) if local.exists() else None
    return wrap(rows, guess_reader(rows, settings, folder if settings.image_folder is None else None))


def load_rows(settings: SourceSettings, path: str) -> Any:
    """The `datasets.Dataset`, or `IterableDataset` when streaming, of one split at `path`, cut to `num_samples`.

    Raises:
        ValueError: It cannot be parsed, or the split is not there.
        FileNotFoundError: There is nothing at `path`.
    """
    library = require("train", "datasets")
    local = Path(path).expanduser()
    if not local.exists() and not _HUB_ID.fullmatch(path):
        raise FileNotFoundError(f"{path}: no such file or folder, and not the id of a dataset on the Hub")
    rows = _load(library, local, path, settings)
    if isinstance(rows, dict):
        rows = _one_split(rows, path)
    if settings.num_samples is not None:
        limit = settings.num_samples
        rows = rows.take(limit) if settings.streaming else rows.select(range(min(limit, len(rows))))
    return rows


def guess_reader(rows: Any, settings: SourceSettings, base_folder: Path | None) -> RowReader:
    """Which columns hold picture, question and answer, by their names.

    Raises:
        ValueError: They cannot be told; lists the columns.
    """
    features = rows.features or {}
    columns = list(features) or list(next(iter(rows), {}))
    if not columns:
        raise ValueError(f"{settings.path}: no rows")
    image, question, answer = (_first(names, columns) for names in (IMAGES, QUESTIONS, ANSWERS))
    own = None if image == "images" else image  # which every reader reads
    template = settings.question_template
    if any(key in columns for key in CONVERSATION_KEYS):
        return RowReader(own, None, None, template, base_folder=base_folder)
    names: list[str] | None = getattr(features.get(answer), "names", None)  # of a ClassLabel
    if answer is None and image is not None:
        answer = _first(CAPTIONS, columns)
        question = None if question == answer else question
        template = template or (CAPTION_QUESTION if question is None else None)
    elif names and question is None:
        template = template or CLASS_QUESTION.format(names=", ".join(names)).replace("{", "{{").replace("}", "}}")
    if answer is None or (question is None and template is None):
        raise ValueError(
            f"{settings.path}: cannot tell what to ask and answer from the columns {', '.join(columns)}; expected "
            f"messages or conversations, or one of {', '.join(QUESTIONS)} (or a question_template) and one of "
            f"{', '.join(ANSWERS)}"
        )
    return RowReader(own, question, answer, template, base_folder=base_folder)


def _load(library: Any, local: Path, path: str, settings: SourceSettings) -> Any:
    options: dict[str, Any] = {"split": settings.split, "streaming": settings.streaming}
    if local.is_dir() and any((local / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _saved(library, local, settings)
    if local.is_dir():
        if any(file.suffix.lower() in PICTURES for file in local.rglob("*")):
            return _parse(library, path, "imagefolder", data_dir=str(local), **options)
        return _parse(library, path, str(local), **options)
    if not local.is_file():
        return _parse(library, path, path, **options)
    if local.suffix not in BUILDERS:
        raise ValueError(f"{local}: expected a folder or a file ending in {', '.join(BUILDERS)}")
    if BUILDERS[local.suffix] == "json" and settings.streaming:
        if settings.split not in (None, "train"):
            raise ValueError(f"{local}: no split {settings.split!r} in a file that is streamed")
        return library.IterableDataset.from_generator(_json_rows, gen_kwargs={"paths": [local]})
    if BUILDERS[local.suffix] == "csv":
        options |= _csv_options(library, local)
    return _parse(library, path, BUILDERS[local.suffix], data_files=str(local), **options)


def _parse(library: Any, path: str, builder: str, **options: Any) -> Any:
    try:
        with quiet():
            return library.load_dataset(builder, **options)
    except (library.exceptions.DatasetGenerationError, ValueError) as error:
        reason = "no rows" if "corresponds to no data" in str(error) else error.__cause__ or error
        raise ValueError(f"{path}: {reason}") from error
    except StopIteration as error:  # how an empty file shows
        raise ValueError(f"{path}: no rows") from error


def _json_rows(paths: list[Path]) -> Iterator[Any]:
    """The rows of JSON files; the library's own stream of them gives columns of mixed types as encoded text."""
    ijson = require("train", "ijson")
    for path in paths:
        with path.open("rb") as file:
            try:
                yield from ijson.items(
                    file, "item" if path.suffix == ".json" else "", use_float=True, multiple_values=True
                )
            except ijson.JSONError as error:
                raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error


def _csv_options(library: Any, path: Path) -> dict[str, Any]:
    """Every column as the text that stands there: pandas would read an answer "None" as nothing, and "007" as 7."""
    separator = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, delimiter=separator), [])
    if not header:
        raise ValueError(f"{path}: no header line")
    text = library.Features({name: library.Value("string") for name in header})
    return {"sep": separator, "features": text, "keep_default_na": False, "encoding": "utf-8-sig"}


def _saved(library: Any, folder: Path, settings: SourceSettings) -> Any:
    rows = library.load_from_disk(str(folder))
    if settings.split is not None:
        if not isinstance(rows, dict) or settings.split not in rows:
            there = f"the splits {', '.join(rows)}" if isinstance(rows, dict) else "one split without a name"
            raise ValueError(f"{folder}: no split {settings.split!r}, it holds {there}")
        rows = rows[settings.split]
    elif isinstance(rows, dict):
        rows = _one_split(rows, str(folder))
    return rows.to_iterable_dataset() if settings.streaming else rows


def _one_split(splits: dict[str, Any], path: str) -> Any:
    if len(splits) == 1:
        return next(iter(splits.values()))
    if "train" not in splits:
        raise ValueError(f"{path}: several splits, {', '.join(splits)}, and none is called train: name one")
    return splits["train"]


def _first(names: tuple[str, ...], columns: list[str]) -> str | None:
    return next((name for name in names if name in columns), None)


__all__ = ["ANSWERS", "IMAGES", "QUESTIONS", "load_custom"]
