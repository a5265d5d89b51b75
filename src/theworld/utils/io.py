"""Atomic writes of files, JSON lines that survive an interrupted writer, and the cache folder."""

import json
import os
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import mode
from typing import Any

from .errors import TheWorldError


def cache_folder() -> Path:
    """`$THEWORLD_CACHE`, or `theworld` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "theworld"
    return Path(os.environ.get("THEWORLD_CACHE", default))


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`object_pairs_hook` for JSON files that people write: raises a ValueError if a key is repeated."""
    if len(found := dict(pairs)) < len(pairs):
        raise TheWorldError(f"the key {mode(name for name, _ in pairs)!r} is repeated in an object; remove one")
    return found


@contextmanager
def naming_path(path: Path) -> Generator[None]:
    """Let every `OSError` of the block name `path`, not the temporary file or folder beside it."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not of the system
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` atomically: a reader gets either the old or the new file.

    The bytes are written to a temporary file beside `path` and flushed to disk, and the file is renamed. Parent folders
    are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_path(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())  # mkstemp's files are readable by their owner only
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically.

    Raises:
        TypeError: if JSON cannot express `value`.
        ValueError: if it holds NaN or an infinity, which other readers of JSON refuse.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Append `rows`, one JSON object per line, and flush them to disk.

    A line that an interrupted writer left unfinished is removed first.
    """
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    data = lines.encode("utf-8", "backslashreplace")  # a lone surrogate as in JSON
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        if file.read(1) not in (b"\n", b""):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file; a last line without its newline is unfinished and left out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a finished line is not a JSON object; the message names the file and the line.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line.decode())
            except (ValueError, RecursionError) as error:  # wrong encoding, syntax, or a number that is too long
                raise TheWorldError(f"{path}, line {number}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise TheWorldError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}.")
            yield row


def _umask() -> int:
    """The process's file mode mask; the only way to read it is to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
