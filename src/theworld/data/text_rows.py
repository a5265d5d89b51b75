"""Rows of JSON, JSON lines, CSV and TSV files, read without type inference.

Each format has one reader for streaming, for the index of a file, and for a single row at a byte position.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self, cast

import numpy as np
from huggingface_hub import HfFileSystem

from theworld.utils.errors import TheWorldError
from theworld.utils.io import unique_keys

DELIMITERS = {".csv": ",", ".tsv": "\t"}
CHUNK = 2**16  # bytes of JSON that are read in one call
MAX_FIELD = 2**26  # characters of a CSV field, which may hold an image as base64 text; the csv module allows 128 K
_NEAR_END = 16
"""Characters. A decoder error this close to the end of the buffer may only mean that more text follows."""
_SPACE = re.compile(r"[ \t\r\n]*")


class Number(float):
    """A number whose `str` is its original text: 1.50 and 1e3 as in a JSON file, 0.1 for a float32."""

    def __init__(self, text: Any = 0, /) -> None:
        self.text = str(text)

    def __str__(self) -> str:
        return self.text


_JSON: Any = {"object_pairs_hook": unique_keys, "parse_float": Number}
"""Numbers keep their text, and a repeated key is a ValueError."""


def parse_json(text: str | bytes) -> Any:
    """The value of a user's JSON; numbers other than integers keep their text."""
    try:
        return json.loads(text, **_JSON)
    except RecursionError as error:
        raise TheWorldError("nested too deep") from error


@dataclass
class TextFile:
    """A file of rows."""

    path: str  # `hf://` for one on the Hub
    delimiter: str | None = None  # delimiter of CSV or TSV; None for JSON: an array of rows, or consecutive values
    name: str = ""  # name in errors, if the path is that of a copy

    @classmethod
    def of(cls, path: Path) -> Self:
        """The local file; its suffix gives the format."""
        return cls(str(path), DELIMITERS.get(path.suffix))

    def rows(self, start: int = 0) -> Iterator[tuple[int, Any]]:
        """(position, row) of every row from `start`; a position is the byte at which the row begins."""
        with self._open() as file:
            try:
                self._skip_bom(file)
                if start:
                    file.seek(start)
                yield from self._json(file, start) if self.delimiter is None else self._table(file, start)
            except UnicodeDecodeError as error:
                raise TheWorldError(
                    f"{self}: not UTF-8 ({error}); convert the file, for example with "
                    "`iconv -f latin1 -t utf-8 OLD > NEW`"
                ) from error

    def __str__(self) -> str:
        return self.name or self.path

    @cached_property
    def header(self) -> list[str]:
        """The column names of a CSV or TSV file; empty if it is empty."""
        with self._open() as file:
            self._skip_bom(file)
            _, names = next(self._records(file, 0), (0, list[str]()))
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|,"):
            shown = {"\t": "tabs"}.get(cast(str, self.delimiter), f"{self.delimiter!r}")
            raise TheWorldError(
                f"{self}: one column {names[0]!r}; fields are separated by {shown} here: save a .csv with commas, a "
                ".tsv with tabs"
            )
        if len(set(names)) < len(names):
            raise TheWorldError(f"{self}: a column is repeated in the header {', '.join(names)}: rename one")
        return names

    def _open(self) -> IO[bytes]:
        return cast(IO[bytes], HfFileSystem().open(self.path)) if "://" in self.path else Path(self.path).open("rb")

    def _skip_bom(self, file: IO[bytes]) -> None:
        head = file.read(4)
        if b"\0" in head or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise TheWorldError(f"{self}: UTF-16 text; convert the file with `iconv -f utf-16 -t utf-8 OLD > NEW`")
        file.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)

    def _table(self, file: IO[bytes], start: int) -> Iterator[tuple[int, dict[str, str]]]:
        names = self.header
        records = self._records(file, file.tell())
        if not start:
            next(records, None)  # the header
        for place, fields in records:
            yield place, dict(zip(names, fields, strict=True))

    def _records(self, file: IO[bytes], place: int) -> Iterator[tuple[int, list[str]]]:
        """The records of a table and their positions, without blank lines; all have as many fields as the first."""
        consumed = place

        def lines() -> Iterator[str]:
            nonlocal consumed
            for line in file:
                consumed += len(line)
                yield line.decode()

        csv.field_size_limit(MAX_FIELD)
        reader = csv.reader(lines(), delimiter=cast(str, self.delimiter), strict=True)
        width, line = None, 1
        try:
            for fields in reader:
                width = width or len(fields)
                if fields and len(fields) != width:
                    raise TheWorldError(
                        f"{self}, line {line}: {len(fields)} fields, but the header has {width}; quote a field that "
                        f"holds the delimiter {self.delimiter!r}"
                    )
                if fields:
                    yield place, fields
                place, line = consumed, reader.line_num + 1
        except csv.Error as error:
            raise TheWorldError(
                f"{self}, line {line}: {error}; close every quote, and double quotes within a field"
            ) from error

    def _json(self, file: IO[bytes], start: int) -> Iterator[tuple[int, Any]]:
        """The elements of an array, or consecutive values; line ends do not matter."""
        text = _Text(file, str(self))
        if text.peek() != "[" or start:
            while text.peek():
                yield text.place, text.value()
            return
        text.skip(1)
        separator = text.peek()
        while separator != "]":
            text.peek()  # skips spaces
            yield text.place, text.value()
            separator = text.peek()
            if separator not in (",", "]"):
                raise text.error("expected ',' or ']' after a row" if separator else "cut off within the array")
            text.skip(separator == ",")
        text.skip(1)
        if text.peek():
            raise text.error("more text after the array")


class _Text:
    """The text of a JSON file, decoded in chunks; `place` counts bytes."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file = file
        self.name = name
        self.place = file.tell()
        self.line = 1
        self.buffer, self.at, self.ended = "", 0, False
        self.decode = codecs.getincrementaldecoder("utf-8")().decode
        self.parse = json.JSONDecoder(**_JSON).raw_decode

    def peek(self) -> str:
        """The next character that is not a space; empty at the end."""
        while True:
            self.skip(len(_SPACE.match(self.buffer, self.at)[0]))  # pyright: ignore[reportOptionalSubscript]
            if self.at < len(self.buffer) or not self._fill():
                return self.buffer[self.at : self.at + 1]

    def skip(self, count: int) -> None:
        """Move on by `count` characters."""
        passed = self.buffer[self.at : self.at + count]
        self.place += len(passed.encode())
        self.line += passed.count("\n")
        self.at += count

    def value(self) -> Any:
        """The value that begins here."""
        while True:
            try:
                value, end = self.parse(self.buffer, self.at)
                length = end - self.at
                if end < len(self.buffer) or not self._fill():  # a number at the end of the buffer may continue
                    self.skip(length)
                    return value
            except json.JSONDecodeError as error:
                unfinished = error.pos > len(self.buffer) - _NEAR_END or error.msg.startswith("Unterminated")
                lines = self.buffer.count("\n", self.at, error.pos)
                if not unfinished or not self._fill():
                    self.line += lines
                    raise self.error(error.msg) from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
                raise self.error(str(error)) from error

    def error(self, reason: str) -> TheWorldError:
        """The error at the current position."""
        return TheWorldError(f"{self.name}, line {self.line}: not JSON ({reason})")

    def _fill(self) -> bool:
        """Read more text, at least as much as the rest of the buffer; False at the end of the file."""
        if self.ended:
            return False
        waiting = self.buffer[self.at :]
        data = self.file.read(max(CHUNK, len(waiting)))
        self.ended = not data
        self.buffer, self.at = waiting + self.decode(data, final=self.ended), 0
        return not self.ended


class TextRows(Sequence[Any]):
    """The rows of `files`, read from disk on access; only their byte positions `places` are in memory."""

    def __init__(self, files: Sequence[TextFile], places: Sequence[np.ndarray[Any, Any]]) -> None:
        self.files = list(files)
        self.places = list(places)
        self._ends = np.cumsum([len(begins) for begins in places])

    @classmethod
    def scan(cls, files: Iterable[TextFile]) -> Self:
        """The rows of files, which are scanned once."""
        files = list(files)
        return cls(files, [np.fromiter((place for place, _ in file.rows()), np.int64) for file in files])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        which = int(np.searchsorted(self._ends, index, side="right"))
        place = int(self.places[which][index - int(self._ends[which])])
        # Opened each time: forked processes would share the position of a shared handle
        found = next(self.files[which].rows(place), None)
        if found is None:
            raise TheWorldError(f"{self.files[which]}: it changed while it was read; run the same command again")
        return found[1]
