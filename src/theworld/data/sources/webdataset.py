"""WebDataset: tar files of images with captions or rows beside them, read one after the other from anywhere.

The files of a sample follow each other and share their name up to its first dot: `000017.jpg`, `000017.txt` (a caption)
or `000017.json` (a row, with the columns of dataset 'custom'). A sample that is an image alone is of use to
`theworld precompute`.
"""

from __future__ import annotations

import itertools
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.image_decoding import MAX_BYTES
from theworld.utils.imports import require

from ..columns import CAPTION_QUESTION, CAPTIONS, CONVERSATION_KEYS, column_of
from ..schema import IMAGE_SUFFIXES, BadSample, Example, SourceSettings
from ..text_rows import parse_json
from .records import Row, RowReader

TEXT_BYTES = 2**24
NAMED = ("question", "answer", "choices")  # what fields of the JSON can be named for by `columns`
UNREADABLE = "unreadable"
OWN = ("id", "image", "images", UNREADABLE)
"""Fields that the tar file alone fills: a name in its JSON would open a file of this machine."""
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


class _Header(tarfile.TarInfo):
    """Of a file in the tar: `tarfile` takes a damaged one, or the end of a cut file, for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end of the archive
                raise
            raise tarfile.ReadError(str(error)) from error


@dataclass(frozen=True)
class _Reader(RowReader):
    """Makes an example of a sample: its conversation, its question and answer, its caption, or its image alone."""

    columns: Mapping[str, str] = field(default_factory=dict)

    def _example(self, row: Row, id: str) -> Example:
        if UNREADABLE in row:
            raise BadSample(*row[UNREADABLE])
        if "image" not in row:
            raise BadSample("missing", f"{id}: no image in the sample, as {', '.join(IMAGE_SUFFIXES)}")
        if any(row.get(key) for key in CONVERSATION_KEYS):
            return super()._example(row, id)
        filled = [name for name, value in row.items() if value is not None]
        question, answer = (column_of(role, self.columns, filled) for role in ("question", "answer"))
        template = self.question_template
        if answer is None:
            answer, template = next((key for key in CAPTIONS if row.get(key)), None), template or CAPTION_QUESTION
        if answer is None:
            return Example(id, messages=(), images=(row["image"],))
        keys = {"question_key": question, "answer_key": answer, "question_template": template}
        return super(_Reader, replace(self, **keys))._example(row, id)


def load_webdataset(settings: SourceSettings) -> tuple[Any, RowReader]:
    """The samples of the tar files at `settings.path`, a stream, and their reader.

    The path is a file or a URL of fsspec; `shards/{000..099}.tar`, `{a,b}`, `*` and `?` stand for several. Processes
    and their workers share the files.
    """
    library, fsspec = require("train", "datasets"), require("train", "fsspec")
    named = dict(settings.columns or {})
    if unknown := next((role for role in named if role not in NAMED), None):
        raise TheWorldError(f"columns: {unknown!r} of tar files cannot be named; expected some of {', '.join(NAMED)}")
    shards: list[str] = []
    for pattern in expand_braces(str(settings.path)):
        files, paths = fsspec.core.url_to_fs(pattern)
        several = any(sign in paths for sign in "*?[")
        shards += [files.unstrip_protocol(path) for path in sorted(files.glob(paths))] if several else [pattern]
    if not shards or not fsspec.core.url_to_fs(shards[0])[0].exists(shards[0]):
        raise MissingFileError(f"{settings.path}: no such tar files; check train_dataset_path")
    rows = library.IterableDataset.from_generator(read_samples, gen_kwargs={"shards": shards})
    reader = _Reader(question_template=settings.question_template, columns=named, image_named=True)
    return rows, replace(reader, choices_key=named.get("choices", reader.choices_key))


def expand_braces(pattern: str) -> list[str]:
    """Every name that a pattern with `{000..099}` or `{a,b}` stands for, in order."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    first, last, names = match.groups()
    if names is not None:
        choices = names.split(",")
    else:
        choices = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [before + choice + rest for choice in choices for rest in expand_braces(after)]


def read_samples(shards: list[str]) -> Iterator[dict[str, Any]]:
    """The samples of tar files as rows: `id`, `image` (bytes), and the fields of its text files."""
    fsspec = require("train", "fsspec")
    for shard in shards:
        done: set[str] = set()
        files, path = fsspec.core.url_to_fs(shard)
        if "file" in files.protocol and Path(path).exists() and not Path(path).is_file():  # a pipe waits for a writer
            raise TheWorldError(f"{shard}: expected a regular file; correct train_dataset_path")
        try:
            with fsspec.open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Header) as tar:
                members = (part for part in tar if not part.isdir() and not Path(part.name).name.startswith("._"))
                for key, parts in itertools.groupby(members, lambda member: _key(member.name)):
                    if key in done:
                        raise TheWorldError(
                            f"{shard}: the files of {key} do not follow each other; make it with `tar --sort=name`"
                        )
                    done.add(key)
                    row: dict[str, Any] = {"id": key}
                    names: dict[str, str] = {}
                    for part in parts:
                        _add(row, names, tar, part)
                    yield row
                if any(map(any, iter(lambda: cast(Any, tar.fileobj).read(tarfile.RECORDSIZE), b""))):
                    raise tarfile.ReadError("more follows its end, as of another tar file")
        except (tarfile.TarError, EOFError) as error:
            raise TheWorldError(f"{shard}: damaged ({error}); download it again") from error


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _add(row: dict[str, Any], names: dict[str, str], tar: tarfile.TarFile, part: tarfile.TarInfo) -> None:
    """Add a file of the tar to its sample, whose image and caption `names` holds; what is too large is not read."""
    suffix = "." + part.name.rpartition(".")[2].lower()
    limit = MAX_BYTES if suffix in IMAGE_SUFFIXES else TEXT_BYTES
    if suffix not in {*IMAGE_SUFFIXES, ".txt", ".json"}:
        return
    if not part.isfile() or part.size > limit:
        link = ("bad_row", f"{part.name}: a link; make the tar file with `tar --hard-dereference -h`")
        size = ("too_large", f"{part.name}: {part.size:,} bytes, at most {limit:,}")
        row[UNREADABLE] = size if part.isfile() else link
        return
    data = cast(IO[bytes], tar.extractfile(part)).read()
    field = "image" if suffix in IMAGE_SUFFIXES else "caption"
    try:
        if suffix == ".json":
            fields = parse_json(data)
            if not isinstance(fields, dict):
                raise TheWorldError(f"expected an object, got {type(fields).__name__}")
            row |= {name: value for name, value in fields.items() if name not in OWN}
        elif names.setdefault(field, part.name) != part.name:
            raise TheWorldError(f"a second {field} beside {names[field]}; a sample has one")
        else:
            row[field] = data if field == "image" else data.decode().strip()
    except ValueError as error:  # of UTF-8 and of JSON too
        row[UNREADABLE] = ("bad_row", f"{part.name}: {error}")
