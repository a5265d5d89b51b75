"""Index of OpenSpatialDataset, a JSON array of 31.9 GB, so that any row is read with one seek."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from theworld.utils.errors import ExistingFileError, MissingFileError, TheWorldError
from theworld.utils.folders import read_object
from theworld.utils.io import write_json
from theworld.utils.logging import logger

from .text_rows import TextFile, TextRows

MANIFEST = "open_spatial.json"
OFFSETS = "offsets.npy"
REPORTED_ROWS = 8192


def index_open_spatial(source_json: Path, out_folder: Path, image_folder: Path | None = None) -> int:
    """Write the byte positions of the rows of a JSON array, and return their number; one row is in memory at a time.

    The array is not copied; `out_folder` takes 8 bytes per row. With an `image_folder`, rows are kept only if it holds
    their image `{filename}.jpg`.
    """
    for needed in (source_json, image_folder):
        if needed is not None and not needed.exists():
            raise MissingFileError(f"{needed}: no such file or folder")
    if out_folder.exists():
        raise ExistingFileError(f"{out_folder}: already exists; name a new folder, or remove it first")
    places = np.fromiter(_places(source_json, image_folder), np.int64)
    if not len(places):
        kept = f" whose image is in {image_folder}" if image_folder else ""
        raise TheWorldError(f"{source_json}: expected an array of rows, but there is none{kept}")
    out_folder.mkdir(parents=True)
    np.save(out_folder / OFFSETS, places)
    write_json(out_folder / MANIFEST, {"source": str(source_json.resolve()), "bytes": source_json.stat().st_size})
    return len(places)


def read_indexed(folder: Path) -> TextRows:
    """The rows of an index that `index_open_spatial` wrote; ValueError if the array changed or is missing."""
    again = "index it again with scripts/convert_open_spatial.py"
    manifest = read_object(folder / MANIFEST, cure=again)
    try:
        source, places = Path(manifest["source"]), np.load(folder / OFFSETS)
        whole = source.stat().st_size == manifest["bytes"] and source.is_file()
        inside = places.clip(0, manifest["bytes"] - 1) == places
        if places.dtype != np.int64 or places.ndim != 1 or not inside.all():
            raise TheWorldError(f"{OFFSETS} does not hold positions in {source}")
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TheWorldError(f"{folder}: not a complete index ({error}); {again}") from error
    if not whole:
        raise TheWorldError(f"{folder}: {source} has changed since it was indexed; {again}")
    return TextRows([TextFile.of(source)], [places])


def _places(path: Path, image_folder: Path | None) -> Iterator[int]:
    number = 0
    with path.open("rb") as file:
        if file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":
            raise TheWorldError(f"{path}: expected an array of rows, which begins with [; download it again")
    try:
        for number, (place, row) in enumerate(TextFile.of(path).rows(), start=1):
            name = f"{row.get('filename')}.jpg" if isinstance(row, dict) else ""
            if image_folder is None or (image_folder / name).is_file():
                yield place
            if number % REPORTED_ROWS == 0:
                logger.info("%s rows read", f"{number:,}")
    except ValueError as error:
        raise TheWorldError(f"{path}: cut off or no JSON after {number:,} rows ({error}); download it again") from error
