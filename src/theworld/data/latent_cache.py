"""Latents of a frozen world encoder, computed once: found by content, verified on read, filled by many processes.

    <folder>/<digest of the fingerprint>/
        fingerprint.json        all that the latents depend on besides the pixels
        shards/<name>.safetensors   `latents` (n, C, T, h, w)
        index/<name>.parquet    key, shard, row and crc32 of each; written after its shard, which counts from then on

A writer only ever adds files of its own, each of which appears whole, so nothing is locked and a killed writer costs
what it had not written yet.

Shape legend: `M` frames, `F` frames of a clip, `S` world image size, `C` latent channels, `T` latent frames, `h, w`
latent height and width.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from theworld.utils.imports import require
from theworld.utils.io import write_bytes, write_json
from theworld.utils.logging import logger

SHARD_BYTES = 64 * 2**20
FLUSH_SECONDS = 60.0
"""A shard is written at this size or age, whichever comes first: what a killed writer can lose."""

STALE_SECONDS = 3600.0
"""Age at which a file that no index names is what a killed writer left behind."""

FINGERPRINT = "fingerprint.json"
PRECOMPUTE = "run `theworld precompute` with this config"


def content_key(pixels: torch.Tensor) -> bytes:
    """The key of one frame (3, S, S), or of a clip (F, 3, S, S), as the encoder sees it: sha256 of its fp32 values."""
    return hashlib.sha256(pixels.to("cpu", torch.float32).contiguous().numpy().data).digest()


class LatentCache:
    """The latents that one encoder makes of frames, on disk.

    It reads what was there when it was opened, memory-mapped. It can be pickled, and used in forked processes.

    Args:
        folder: Where the caches of any number of encoders lie beside one another.
        fingerprint: All that the latents depend on besides the pixels, ready for JSON.
        writable: Start a cache where there is none, and allow `add`.

    Raises:
        FileNotFoundError: There is no cache, and it is not `writable`.
        ValueError: There is one of another encoder only, naming what differs; or an index file is damaged.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, folder: str | Path, fingerprint: dict[str, Any], *, writable: bool = False) -> None:
        require("train", "pyarrow.parquet")
        self.folder = Path(folder).expanduser()
        self.fingerprint: dict[str, Any] = json.loads(json.dumps(fingerprint, sort_keys=True))
        self.writable = writable
        self.path = cache_path(self.folder, self.fingerprint)
        if writable:
            _make(self.path)
            write_json(self.path / FINGERPRINT, self.fingerprint)
        else:
            _check_there(self.folder, self.path, self.fingerprint)
        self._index = _Index.read(self.path / "index")
        self._shards: dict[int, torch.Tensor] = {}
        self._pending: dict[bytes, torch.Tensor] = {}
        self._added: set[bytes] = set()
        self._flushed_at = time.monotonic()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.fingerprint)  # a worker reads, and maps the files for itself

    def __len__(self) -> int:
        return len(self._index.keys) + len(self._added)

    def __contains__(self, key: bytes) -> bool:
        return key in self._added or self._index.find([key])[0] >= 0

    def lookup(self, world_pixel_values: torch.Tensor) -> torch.Tensor:
        """Latents (M, C, T, h, w) of frames (M, 3, S, S), or of clips (M, F, 3, S, S), in the encoder's dtype.

        Raises:
            KeyError: Some are not in the cache.
            ValueError: A shard is damaged.
        """
        return self.get([content_key(pixels) for pixels in world_pixel_values])

    def get(self, keys: Sequence[bytes]) -> torch.Tensor:
        """Latents (M, C, T, h, w) by key; see `lookup`."""
        if not keys:
            return torch.empty(0)
        places = self._index.find(keys)
        missing = [key.hex()[:16] for key, place in zip(keys, places, strict=True) if place < 0]
        if missing:
            raise KeyError(
                f"{self.path}: {len(missing)} of {len(keys)} pictures have no latents there (content "
                f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); {PRECOMPUTE} to add them"
            )
        return torch.stack([self._read(int(place)) for place in places])

    def add(self, key: bytes, latents: torch.Tensor) -> None:
        """Add latents (C, T, h, w), unless they are there; `flush` writes what a full shard has not yet.

        Raises:
            OSError: The disk is full.
        """
        assert self.writable
        if key in self:
            return
        self._pending[key] = latents.detach().cpu().contiguous()
        self._added.add(key)
        if latents.nbytes * len(self._pending) >= SHARD_BYTES or time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added as a shard.

        Raises:
            OSError: The disk is full.
        """
        pending, self._pending = self._pending, {}
        self._flushed_at = time.monotonic()
        if not pending:
            return
        name = uuid.uuid4().hex
        try:
            write_bytes(_shard(self.path, name), save({"latents": torch.stack(list(pending.values()))}))
            write_bytes(self.path / "index" / f"{name}.parquet", _index_bytes(name, pending))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = shutil.disk_usage(self.path).free
            raise OSError(
                f"{self.path}: no space left for {len(pending)} latents ({free / 1e6:.0f} MB are free); what was "
                "written before is kept: make room and run the same command again"
            ) from error

    def _read(self, place: int) -> torch.Tensor:
        shard, row = int(self._index.shards[place]), int(self._index.rows[place])
        if shard not in self._shards:
            self._shards[shard] = _open_shard(_shard(self.path, self._index.names[shard]))
        latents = self._shards[shard][row].clone()
        if _checksum(latents) != self._index.checksums[place]:
            raise _damaged(_shard(self.path, self._index.names[shard]), f"the checksum of row {row} differs")
        return latents


@dataclass(frozen=True)
class _Index:
    """Every row of every index file, in the order of keys.

    Args:
        keys: (n,) bytes.
        shards: (n,) place in `names`.
        rows: (n,) place in the shard.
        checksums: (n,) crc32 of the latents' bytes.
        names: Of the shards.
    """

    keys: np.ndarray[Any, Any]
    shards: np.ndarray[Any, Any]
    rows: np.ndarray[Any, Any]
    checksums: np.ndarray[Any, Any]
    names: list[str]

    @classmethod
    def read(cls, folder: Path) -> _Index:
        files = sorted(folder.glob("*.parquet"))
        columns = [_read_index(file) for file in files]
        shards = [np.full(len(keys), shard) for shard, (keys, _, _) in enumerate(columns)]
        empty = (np.empty(0, "S32"), np.empty(0, np.int64), np.empty(0, np.int64))
        keys, rows, checksums = (np.concatenate(parts) for parts in zip(empty, *columns, strict=True))
        order = np.argsort(keys, kind="stable")
        shards = np.concatenate([empty[1], *shards])
        return cls(keys[order], shards[order], rows[order], checksums[order], [file.stem for file in files])

    def find(self, keys: Sequence[bytes]) -> np.ndarray[Any, Any]:
        """The place (M,) of each key, -1 where it is not there."""
        wanted = np.array(keys, dtype="S32")
        if not len(self.keys):
            return np.full(len(wanted), -1)
        places = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where(self.keys[places] == wanted, places, -1)


def cache_path(folder: Path, fingerprint: dict[str, Any]) -> Path:
    """Where in `folder` the latents of an encoder lie."""
    return folder / hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def drop_damaged(folder: str | Path, fingerprint: dict[str, Any]) -> int:
    """Read an encoder's whole cache and delete the shards that are damaged, and what killed writers left behind.

    Returns:
        How many latents were lost.
    """
    require("train", "pyarrow.parquet")
    path = cache_path(Path(folder).expanduser(), fingerprint)
    lost = 0
    for index in path.glob("index/*.parquet"):
        shard = _shard(path, index.stem)
        count = 1
        try:
            _, rows, checksums = _read_index(index)
            count = len(rows)
            latents = _open_shard(shard)
            if any(_checksum(latents[row]) != checksum for row, checksum in zip(rows, checksums, strict=True)):
                raise _damaged(shard, "a checksum differs")
        except (ValueError, IndexError) as error:
            logger.warning("%s", error)
            index.unlink()
            shard.unlink(missing_ok=True)
            lost += count
    for file in (*path.glob("shards/*"), *path.glob("index/*")):
        named = (path / "index" / f"{file.stem}.parquet").exists()
        if not named and time.time() - file.stat().st_mtime > STALE_SECONDS:
            file.unlink()
    return lost


def _make(path: Path) -> None:
    for folder in (path / "shards", path / "index"):
        folder.mkdir(parents=True, exist_ok=True)


def _check_there(folder: Path, path: Path, fingerprint: dict[str, Any]) -> None:
    if (path / FINGERPRINT).is_file():
        return
    others = [_read_fingerprint(file) for file in sorted(folder.glob(f"*/{FINGERPRINT}"))]
    if not others:
        raise FileNotFoundError(f"{folder}: no latent cache there; {PRECOMPUTE} to make one")
    differing = min((_differences(other, fingerprint) for other in others), key=len)
    raise ValueError(
        f"{folder}: holds latents of another encoder ({', '.join(differing)}); {PRECOMPUTE} to add those of this one"
    )


def _read_fingerprint(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(file, str(error)) from error


def _differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    names = sorted({*there, *here})
    return [f"{n} is {there.get(n)!r} there, {here.get(n)!r} here" for n in names if there.get(n) != here.get(n)]


def _shard(path: Path, name: str) -> Path:
    return path / "shards" / f"{name}.safetensors"


def _open_shard(path: Path) -> torch.Tensor:
    """The shard's latents (n, C, T, h, w), memory-mapped: pages are read when they are touched."""
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("latents")
    except (SafetensorError, FileNotFoundError) as error:
        raise _damaged(path, str(error)) from error


def _index_bytes(name: str, latents: dict[bytes, torch.Tensor]) -> bytes:
    arrow, parquet = require("train", "pyarrow"), require("train", "pyarrow.parquet")
    table = arrow.table(
        {
            "key": arrow.array(list(latents), arrow.binary(32)),
            "shard": [name] * len(latents),
            "row": np.arange(len(latents)),
            "crc32": np.array([_checksum(value) for value in latents.values()]),
        }
    )
    buffer = BytesIO()
    parquet.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()


def _read_index(file: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Keys, rows and checksums of one index file."""
    try:
        table = require("train", "pyarrow.parquet").read_table(file, page_checksum_verification=True)
        keys = np.array(table["key"].to_pylist(), dtype="S32")
        return keys, table["row"].to_numpy(), table["crc32"].to_numpy()
    except (ValueError, OSError, KeyError) as error:  # pyarrow's own errors are among these
        raise _damaged(file, str(error).partition("\n")[0]) from error


def _checksum(latents: torch.Tensor) -> int:
    return zlib.crc32(latents.flatten().view(torch.uint8).numpy().data)


def _damaged(file: Path, reason: str) -> ValueError:
    return ValueError(f"{file}: damaged ({reason}); {PRECOMPUTE} to rebuild it")


__all__ = ["LatentCache", "cache_path", "content_key", "drop_damaged"]
