"""OpenSpatialDataset is one JSON array of 31.9 GB: converted once into files whose every row is one seek away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from theworld.utils.errors import MissingFileError, TheWorldError
from theworld.utils.io import write_json
from theworld.utils.logging import logger

from .text_rows import TextFile, TextRows

MANIFEST = "open_spatial.json"
OFFSETS = "offsets.npy"
ROWS_PER_SHARD = 8192


def convert_open_spatial(
    source_json: Path, out_folder: Path, image_folder: Path | None = None, rows_per_shard: int = ROWS_PER_SHARD
) -> int:
    """Rewrite the array as JSON lines of `rows_per_shard` rows each, in one pass that holds one row in memory.

    The folder appears when all is written: what is killed leaves only a `.partial` folder beside it, which the next
    conversion replaces.

    Args:
        source_json: result_10_depth_convs.json, or any JSON array of rows.
        out_folder: What to make; takes about as much disk as the array.
        image_folder: Keep only the rows whose image `{filename}.jpg` is in it.
        rows_per_shard: Rows of one file.

    Returns:
        The number of rows written.

    Raises:
        FileNotFoundError: There is no `source_json` or no `image_folder`.
        FileExistsError: `out_folder` is there already.
        ValueError: The array is cut off or no JSON, or no row is left.
    """
    for needed in (source_json, image_folder):
        if needed is not None and not needed.exists():
            raise MissingFileError(f"{needed}: no such file or folder")
    if out_folder.exists():
        raise TheWorldError(f"{out_folder}: is there already; name a new folder, or remove it first")
    partial = out_folder.with_name(f"{out_folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        counts = _write_shards(_array(source_json, image_folder), partial, rows_per_shard)
        if not sum(counts):
            kept = f" whose image is in {image_folder}" if image_folder else ""
            raise TheWorldError(f"{source_json}: expected an array of rows, but there is none{kept}")
        write_json(partial / MANIFEST, {"source": source_json.name, "rows": sum(counts), "shards": counts})
        partial.rename(out_folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sum(counts)


def read_converted(folder: Path) -> TextRows:
    """The rows of a folder that `convert_open_spatial` made.

    Raises:
        ValueError: Files of it are missing or cut.
    """
    try:
        counts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["shards"]
        offsets = np.split(np.load(folder / OFFSETS), np.cumsum(counts))[:-1]
        files = [folder / _shard_name(number) for number in range(len(counts))]
        whole = all(file.stat().st_size > int(places[-1]) for file, places in zip(files, offsets, strict=True))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise TheWorldError(f"{folder}: not a whole conversion ({error}); convert again") from error
    if not whole or [len(places) for places in offsets] != counts:
        raise TheWorldError(f"{folder}: not a whole conversion; convert again")
    return TextRows([TextFile.of(file) for file in files], offsets)


def _array(path: Path, image_folder: Path | None) -> Iterator[Any]:
    number = 0
    with path.open("rb") as file:
        if file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":
            raise TheWorldError(f"{path}: expected an array of rows, which begins with [; download it again")
    try:
        for _, row in TextFile.of(path).rows():
            number += 1
            name = f"{row.get('filename')}.jpg" if isinstance(row, dict) else ""
            if image_folder is None or (image_folder / name).is_file():
                yield row
    except ValueError as error:
        raise TheWorldError(f"{path}: cut off or no JSON after {number:,} rows ({error}); download it again") from error


def _write_shards(rows: Iterator[Any], folder: Path, rows_per_shard: int) -> list[int]:
    """Write the rows, and where each begins in its file; how many each file holds."""
    counts: list[int] = []
    offsets: list[int] = []
    for number, shard in groupby(enumerate(rows), lambda numbered: numbered[0] // rows_per_shard):
        with (folder / _shard_name(number)).open("wb") as file:
            for _, row in shard:
                offsets.append(file.tell())
                file.write(json.dumps(row, ensure_ascii=False).encode(errors="surrogatepass") + b"\n")
        counts.append(len(offsets) - sum(counts))
        logger.info("%s rows converted", f"{len(offsets):,}")
    np.save(folder / OFFSETS, np.array(offsets, dtype=np.int64))
    return counts


def _shard_name(number: int) -> str:
    return f"rows-{number:05d}.jsonl"


__all__ = ["MANIFEST", "convert_open_spatial", "read_converted"]
