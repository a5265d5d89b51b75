"""WebDataset: tar files of images with captions or rows, streamed from local or remote paths.

The files of a sample follow each other and share their name up to its first dot: `000017.jpg`, `000017.txt` (a caption)
or `000017.json` (a row, with the columns of dataset 'custom'). A sample that has only an image can be used by `theworld
precompute`.
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
NAMED = ("question", "answer", "choices")  # roles that `columns` can name for fields of the JSON
UNREADABLE = "unreadable"
OWN = ("id", "image", "images", UNREADABLE)
"""Fields that only files of the tar fill: a name in its JSON would open a local file."""
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


class _Header(tarfile.TarInfo):
    """Header of a file in the tar. Raises for a damaged or cut one, which `tarfile` reads as the end of the archive."""

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
    """Makes an example of a sample: a conversation, a question and answer, a caption, or only an image."""

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
    """A stream of the samples of the tar files at `settings.path`, and their reader.

    The path is a file or a URL of fsspec; `{000..099}`, `{a,b}`, `*` and `?` match several files. Processes and their
    workers share the files.
    """
    library, fsspec = require("train", "datasets"), require("train", "fsspec")
    named = dict(settings.columns or {})
    if unknown := next((role for role in named if role not in NAMED), None):
        raise TheWorldError(f"columns: {unknown!r} cannot be named for tar files; expected some of {', '.join(NAMED)}")
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
    """All names that a pattern with `{000..099}` or `{a,b}` matches, in order."""
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
        # 1. Open the tar file as a stream
        done: set[str] = set()
        files, path = fsspec.core.url_to_fs(shard)
        if "file" in files.protocol and Path(path).exists() and not Path(path).is_file():  # opening a pipe would block
            raise TheWorldError(f"{shard}: expected a regular file; correct train_dataset_path")
        try:
            with fsspec.open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r|*", tarinfo=_Header) as tar:
                # 2. Group its files by sample
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
                # 3. Nothing may follow the end of the archive
                if any(map(any, iter(lambda: cast(Any, tar.fileobj).read(tarfile.RECORDSIZE), b""))):
                    raise tarfile.ReadError("data after its end, as of another tar file")
        except (tarfile.TarError, EOFError) as error:
            raise TheWorldError(f"{shard}: damaged ({error}); download it again") from error


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _add(row: dict[str, Any], names: dict[str, str], tar: tarfile.TarFile, part: tarfile.TarInfo) -> None:
    """Add a file of the tar to its sample.

    `names` holds the file names of image and caption; large files are not read.
    """
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
    except ValueError as error:  # errors of UTF-8 and JSON too
        row[UNREADABLE] = ("bad_row", f"{part.name}: {error}")
