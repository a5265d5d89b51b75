"""BLINK: multiple-choice questions of fourteen kinds about one to four images, answered by a letter.

Fu et al., ECCV 2024. A row has `idx`, `sub_task`, `prompt` (complete, with its options), `image_1` ... `image_4`,
`choices` and `answer` "(A)". Only the split `val` has answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from theworld.utils.errors import TheWorldError
from theworld.utils.imports import require

from ..images import in_order, locate
from ..schema import BadSample, Example, Skipped, SourceSettings
from ..text_rows import parse_json
from .files import SAVED, load_rows
from .hf_dataset import quiet, wrap
from .records import Row, RowReader, read_choices

IMAGE_KEYS = ("image_1", "image_2", "image_3", "image_4")
SPLITS = ("val", "validation")  # names of the split with answers

_OPTION = re.compile(r"^\(([A-Z])\)", re.MULTILINE)
BLINK_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?")
_IMAGE_TAG = re.compile(r"<img [^>]*>\s*")


def load_blink(settings: SourceSettings) -> tuple[Any, RowReader]:
    """The questions at `settings.path`, answered with a single letter.

    Args:
        settings: `path` is a Parquet or JSON lines file, a folder of Parquet files or with one JSON lines file, a
            folder written by `save_to_disk`, a folder of folders with a request.json and its images each, or a Hub id,
            which may end with a sub-task: BLINK-Benchmark/BLINK/Relative_Depth. Without one, all are read.
            `question_template` may use every field of a row; "{prompt}" by default.
    """
    if (settings.split or "").startswith("test"):
        raise _hidden(settings.split)
    path = settings.local
    lines = list(path.glob("*.jsonl"))
    path = lines[0] if len(lines) == 1 else path
    rows = _requests(path) or _rows(settings, path)
    reader = _Reader(None, None, "answer", settings.question_template, base_folder=settings.base_folder)
    first = next(wrap(rows, reader).sample(), None)
    if isinstance(first, Mapping) and first.get("answer") == "hidden":
        raise _hidden(path)
    return rows, reader


class _Reader(RowReader):
    def read(self, row: Any, fallback_id: str) -> Example | Skipped:
        named = isinstance(row, Mapping) and row.get("idx")
        return super().read(row, str(named or fallback_id))

    def _example(self, row: Row, id: str) -> Example:
        letters = _letters(row)
        answer = str(row.get("answer")).strip().strip("()")
        if answer not in letters:
            cause = "hidden_answer" if answer == "hidden" else "bad_row"
            raise BadSample(cause, f"answer {row.get('answer')!r}: expected one of {', '.join(letters)}")
        images = [row[key] for key in IMAGE_KEYS if row.get(key) not in (None, "")]
        if not images:
            raise BadSample("bad_row", "no image in image_1")
        plain = {name: value for name, value in row.items() if name not in IMAGE_KEYS}
        example = super()._example({**plain, "images": images, "answer": answer, "choices": letters}, id)
        more = {"answer": f"({answer})", "options": row.get("choices")}
        return replace(example, metadata=example.metadata | more)


def _letters(row: Row) -> list[str]:
    """The letters of the options: as many as the row has choices, or those that the prompt lists."""
    options = read_choices(row.get("choices")) or _OPTION.findall(str(row.get("prompt")))
    if len(options) < 2:
        raise BadSample("bad_row", "no choices, and none in the prompt")
    return [chr(ord("A") + number) for number in range(len(options))]


def _rows(settings: SourceSettings, path: Path) -> Any:
    """Rows of a file or a saved folder; otherwise of one sub-task of a repository, or all."""
    library = require("train", "datasets")
    if path.is_file():
        return load_rows(SourceSettings(path=str(path)))
    if any((path / name).is_file() for name in SAVED):
        rows = library.load_from_disk(str(path))
        return rows[_answered(list(rows), settings)] if isinstance(rows, dict) else rows
    name, tasks = str(path), list[str]()
    if not path.is_dir():
        repository = BLINK_ID.fullmatch(str(settings.path))
        assert repository is not None  # as `open_source` checks
        name, tasks = repository[1], [repository[2]] if repository[2] else []
    parts: list[Any] = []
    with quiet():
        for task in tasks or library.get_dataset_config_names(name):
            split = _answered(library.get_dataset_split_names(name, task), settings)
            parts.append(library.load_dataset(name, task, split=split))
    return library.concatenate_datasets(parts)


def _answered(splits: list[str], settings: SourceSettings) -> str:
    wanted = (settings.split, *SPLITS) if settings.split in (None, *SPLITS) else (settings.split,)
    found = next((name for name in wanted if name in splits), None)
    if found is None:
        if splits == ["test"]:
            raise _hidden("test")
        raise TheWorldError(f"no split {settings.split or SPLITS[0]!r}, it has {', '.join(splits)}")
    return found


def _requests(folder: Path) -> list[dict[str, Any]]:
    """Rows of VisualSketchpad's BLINK: one folder per item, with its images and {query, images, answer}."""
    files = sorted(folder.glob("*/request.json"), key=lambda file: in_order(file.parent))
    if special := next((file for file in files if not file.is_file()), None):  # opening a pipe would block
        raise TheWorldError(f"{special}: expected a regular file; remove it")
    return [_request(file) for file in files]


def _request(file: Path) -> dict[str, Any]:
    try:
        request = parse_json(file.read_text(encoding="utf-8"))
        query, answer = request["query"], request["answer"]
        # Paths are of another folder; the images are beside the request
        images = [locate(Path(name).name, file.parent) for name in request["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise TheWorldError(f"{file}: expected query, images and answer ({error!r})") from error
    row = {"idx": file.parent.name, "prompt": _IMAGE_TAG.sub("", query).strip(), "answer": answer}
    return row | dict(zip(IMAGE_KEYS, images, strict=False))


def _hidden(what: Any) -> TheWorldError:
    return TheWorldError(f"{what}: the answers of BLINK's test split are hidden (EvalAI keeps them); use split 'val'")
