"""Cache of latents of a frozen world encoder: keyed by content, verified on read, filled by several processes.

    <folder>/<digest of the fingerprint>/
        fingerprint.json            everything that the latents depend on besides the pixels
        shards/<name>.safetensors   `latents` (n, C, T, h, w), and of each row its `keys` (n, 32) and its `crc32` (n,);
                                    of these two together the metadata hold a crc32

A writer only adds its own files, each with an atomic rename, so no lock is needed. If a writer is killed, only
unwritten latents are lost. Readers do not map files, because truncating a mapped file kills its readers.

Shape legend: `M` frames, `F` frames of a clip, `S` world image size, `C` latent channels, `T` latent frames, `h, w`
latent height and width, `n` rows of a shard.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save

from theworld.utils.errors import FileError, MissingFileError, TheWorldError
from theworld.utils.folders import read_object
from theworld.utils.io import write_bytes, write_json
from theworld.utils.logging import logger

SHARD_BYTES = 64 * 2**20
FLUSH_SECONDS = 60.0  # a shard is written at this size or age; a killed writer loses at most this much
STALE_SECONDS = 3600.0  # an unfinished file of this age was left by a killed writer
OPEN_FILES = 128
HEADER_BYTES = 2**20
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
KEY_BYTES = 32
ROW = np.dtype([("key", f"S{KEY_BYTES}"), ("shard", np.int32), ("row", np.int32), ("crc32", np.uint32)])
"""Place of a key's latents: number of the shard and row in it. `crc32` is the checksum of the key and its latents."""

Kind = tuple[tuple[int, ...], torch.dtype]  # shape (C, T, h, w) and dtype of latents
FINGERPRINT = "fingerprint.json"
SHARD = re.compile(r"[0-9a-f]{32}-(\d+)\.safetensors")  # with the number of rows; other files are ignored
PRECOMPUTE = "run `theworld precompute` with this config"


def content_key(pixels: torch.Tensor) -> bytes:
    """The key of one frame (3, S, S) or clip (F, 3, S, S) of the encoder's input: SHA-256 of its fp32 values."""
    return hashlib.sha256(pixels.to("cpu", torch.float32).contiguous().numpy().data).digest()


class LatentCache:
    """The latents of one encoder on disk, as of the time of opening. It can be pickled.

    Args:
        folder: Folder of the caches of all encoders.
        fingerprint: Everything that the latents depend on besides the pixels, as JSON values.
        writable: Create the cache if there is none, and allow `add`.
    """

    def __init__(self, folder: str | Path, fingerprint: dict[str, Any], *, writable: bool = False) -> None:
        self.folder = Path(folder).expanduser()
        self.fingerprint: dict[str, Any] = json.loads(json.dumps(fingerprint, sort_keys=True))
        self.writable = writable
        self.path = cache_path(self.folder, self.fingerprint)
        if self.folder.is_file():
            raise TheWorldError(f"{self.folder}: a file, not a folder of cached latents; name a folder")
        if writable:
            (self.path / "shards").mkdir(parents=True, exist_ok=True)
            write_json(self.path / FINGERPRINT, self.fingerprint)
        else:
            _check_there(self.folder, self.path, self.fingerprint)
        self._index = _Index(self.path)
        self._kind = self._index.kind
        self._files: dict[int, BinaryIO] = {}
        self._pending: dict[bytes, torch.Tensor] = {}
        self._added: set[bytes] = set()
        self._flushed_at = time.monotonic()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.fingerprint)  # a worker process only reads, and opens its own files

    def __len__(self) -> int:
        return len(self._index.rows) + len(self._added)

    def __contains__(self, key: bytes) -> bool:
        return key in self._added or self._index.find([key])[0] >= 0

    def lookup(self, world_pixel_values: torch.Tensor) -> torch.Tensor:
        """Latents (M, C, T, h, w) of frames (M, 3, S, S), or of clips (M, F, 3, S, S), in the encoder's dtype.

        Raises ValueError for frames that are not in the cache, and for a damaged shard.
        """
        return self.get([content_key(pixels) for pixels in world_pixel_values])

    def get(self, keys: Sequence[bytes]) -> torch.Tensor:
        """Latents (M, C, T, h, w) by key; see `lookup`."""
        if not keys:
            return torch.empty(0)
        places = self._index.find(keys)
        missing = [key.hex()[:16] for key, place in zip(keys, places, strict=True) if place < 0]
        if missing:
            named = f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
            message = f"{len(missing)} of {len(keys)} images have no latents in this cache (content {named})"
            raise TheWorldError(f"{self.path}: {message}; {PRECOMPUTE} to add them")
        return torch.stack([self._read(key, self._index.rows[place]) for key, place in zip(keys, places, strict=True)])

    def add(self, key: bytes, latents: torch.Tensor) -> None:
        """Add latents (C, T, h, w) of a key that the cache lacks, to be written with a full shard or by `flush`.

        OSError if the disk is full; ValueError if shape or dtype differ from those in the cache.
        """
        assert self.writable
        if key in self:
            return
        self._kind = _one_kind(self.path, self._kind, (tuple(latents.shape), latents.dtype))
        self._pending[key] = latents.detach().cpu().contiguous()
        self._added.add(key)
        if latents.nbytes * len(self._pending) >= SHARD_BYTES or time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the added latents as a shard; OSError if the disk is full."""
        pending, self._pending = self._pending, {}
        self._flushed_at = time.monotonic()
        if not pending:
            return
        crc32 = [_crc32(key, latents.flatten().view(torch.uint8).numpy().data) for key, latents in pending.items()]
        keys = np.frombuffer(b"".join(pending), np.uint8).reshape(-1, KEY_BYTES)
        tensors = {"keys": torch.from_numpy(keys.copy()), "crc32": torch.tensor(crc32, dtype=torch.uint32)}
        tensors["latents"] = torch.stack(list(pending.values()))
        metadata = {"crc32": str(_crc32(keys.tobytes(), tensors["crc32"].numpy().tobytes()))}
        try:
            name = f"{uuid.uuid4().hex}-{len(pending)}.safetensors"
            write_bytes(self.path / "shards" / name, save(tensors, metadata))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            free = f"{shutil.disk_usage(self.path).free / 1e6:.0f} MB are free"
            cure = "earlier latents are kept: free disk space and run the same command again"
            raise FileError(f"{self.path}: no space left for {len(pending)} latents ({free}); {cure}") from error

    def _read(self, key: bytes, row: Any) -> torch.Tensor:
        number = int(row["shard"])
        shard = self._index.shards[number]
        if number not in self._files:
            if len(self._files) == OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            self._files[number] = _open(shard.path)
        return shard.read(self._files[number], key, row)


@dataclass(frozen=True)
class _Shard:
    """Positions of the latents in a shard's file."""

    path: Path
    shape: tuple[int, ...]  # (C, T, h, w) of a row
    dtype: torch.dtype
    start: int  # place of the first row in the file

    @classmethod
    def open(cls, path: Path) -> tuple[_Shard, np.ndarray[Any, Any]]:
        """The shard and its rows (n,), see `ROW`; the latents are not read. ValueError if the file is damaged."""
        try:
            with _open(path) as file:
                # 1. Read the header
                size = int.from_bytes(_read_exactly(file, 8, 0), "little")
                if size > HEADER_BYTES:
                    raise TheWorldError(f"a header of {size} bytes")
                entries = json.loads(_read_exactly(file, size, 8))
                start, metadata = 8 + size, entries.pop("__metadata__")

                def array(name: str, dtype: str, *shape: int) -> np.ndarray[Any, Any]:
                    low, high = entries[name]["data_offsets"]
                    return np.frombuffer(_read_exactly(file, high - low, start + low), dtype).reshape(shape)

                (low, high), (count, *shape) = (entries["latents"][name] for name in ("data_offsets", "shape"))
                dtype = DTYPES[entries["latents"]["dtype"]]
                places = [entry["data_offsets"] for entry in entries.values()]
                # 2. Check the length, and the checksum of the keys
                whole = min(map(min, places)) == 0 and os.fstat(file.fileno()).st_size == start + max(map(max, places))
                if not whole or high - low != count * math.prod(shape) * dtype.itemsize:
                    raise TheWorldError("its length is not that of its header")
                keys, crc32 = array("keys", "u1", count, KEY_BYTES), array("crc32", "<u4", count)
                if str(_crc32(keys.tobytes(), crc32.tobytes())) != metadata["crc32"]:
                    raise TheWorldError("the checksum of its keys differs")
                rows = np.empty(count, ROW)
                rows["key"], rows["row"], rows["crc32"] = keys.view(ROW["key"]).ravel(), np.arange(count), crc32
                return cls(path, tuple(shape), dtype, start + low), rows
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(path, str(error)) from error

    def read(self, file: BinaryIO, key: bytes, row: Any) -> torch.Tensor:
        """Latents (C, T, h, w) of a key, whose `ROW` is `row`; ValueError if they are damaged."""
        size = math.prod(self.shape) * self.dtype.itemsize
        try:
            data = _read_exactly(file, size, self.start + int(row["row"]) * size)
        except ValueError as error:
            raise _damaged(self.path, str(error)) from error
        if _crc32(key, data) != row["crc32"]:
            raise _damaged(self.path, f"the checksum of row {row['row']} differs")
        return torch.frombuffer(data, dtype=self.dtype).view(self.shape)


class _Index:
    """The rows (n,) of all shards of a cache, in the order of their keys; see `ROW`."""

    def __init__(self, path: Path) -> None:
        _check_version(path)
        self.shards: list[_Shard] = []
        self.kind: Kind | None = None
        parts = [np.empty(0, ROW)]
        for number, file in enumerate(_shards(path)):
            shard, rows = _Shard.open(file)
            self.kind = _one_kind(path, self.kind, (shard.shape, shard.dtype))
            rows["shard"] = number
            self.shards.append(shard)
            parts.append(rows)
        rows = np.concatenate(parts)
        self.rows = rows[np.argsort(rows["key"], kind="stable")]

    def find(self, keys: Sequence[bytes]) -> np.ndarray[Any, Any]:
        """The index (M,) of each key in `rows`; -1 for a missing key."""
        wanted = np.array(keys, dtype=ROW["key"])
        if not len(self.rows):
            return np.full(len(wanted), -1)
        places = np.searchsorted(self.rows["key"], wanted).clip(max=len(self.rows) - 1)
        return np.where(self.rows["key"][places] == wanted, places, -1)


def cache_path(folder: Path, fingerprint: dict[str, Any]) -> Path:
    """Sub-folder of `folder` for the latents of one encoder."""
    return folder / hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def drop_damaged(folder: str | Path, fingerprint: dict[str, Any], rank: int = 0, world_size: int = 1) -> int:
    """Read an encoder's whole cache. Delete damaged shards and unfinished files of killed writers.

    Process `rank` of `world_size` reads its share of the shards. Returns the number of lost latents. ValueError if the
    cache is of version 0.1.
    """
    path = cache_path(Path(folder).expanduser(), fingerprint)
    _check_version(path)
    lost = 0
    for file in _shards(path):
        if zlib.crc32(file.name.encode()) % world_size != rank:  # not by index, which changes while others delete
            continue
        try:
            shard, rows = _Shard.open(file)
            with _open(file) as opened:
                for row in rows:
                    shard.read(opened, row["key"].ljust(KEY_BYTES, b"\0"), row)  # numpy strips zeros at the end
        except ValueError as error:
            logger.warning("%s", error)
            file.unlink(missing_ok=True)
            lost += int(file.stem.rpartition("-")[2])  # the number is in the name, because the header may be damaged
    for file in path.glob("shards/.*"):
        if time.time() - file.stat().st_mtime > STALE_SECONDS:
            file.unlink(missing_ok=True)
    return lost


def _shards(path: Path) -> list[Path]:
    return sorted(file for file in path.glob("shards/*") if SHARD.fullmatch(file.name) and file.is_file())


def _one_kind(path: Path, there: Kind | None, new: Kind) -> Kind:
    if there not in (None, new):
        message = f"latents of {new}, but the cache holds latents of {there}"
        raise TheWorldError(f"{path}: {message}; remove that folder, then {PRECOMPUTE}")
    return new


def _check_version(path: Path) -> None:
    if (path / "index").is_dir():
        message = "latents of version 0.1, without their keys"
        raise TheWorldError(f"{path}: {message}; remove that folder, then {PRECOMPUTE}")


def _check_there(folder: Path, path: Path, here: dict[str, Any]) -> None:
    if (path / FINGERPRINT).is_file():
        return
    cure = f"{PRECOMPUTE} to rebuild it"
    others = [read_object(file, cure=cure) for file in sorted(folder.glob(f"*/{FINGERPRINT}")) if file.is_file()]
    if not others:
        raise MissingFileError(f"{folder}: no latent cache; {PRECOMPUTE} to make one")
    differing = [[n for n in sorted({*there, *here}) if there.get(n) != here.get(n)] for there in others]
    names, there = min(zip(differing, others, strict=True), key=lambda pair: len(pair[0]))
    shown = ", ".join(f"{n} is {there.get(n)!r} there, {here.get(n)!r} here" for n in names)
    raise TheWorldError(f"{folder}: holds latents of another encoder ({shown}); {PRECOMPUTE} to add those of this one")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise _damaged(path, "it is gone") from error


def _read_exactly(file: BinaryIO, size: int, start: int) -> bytearray:
    """`size` bytes from `start`, without the file's position, which forked processes share."""
    data = bytearray()
    while len(data) < size:
        block = os.pread(file.fileno(), size - len(data), start + len(data))
        if not block:
            raise TheWorldError(f"it ends before byte {start + len(data) + 1}")
        data += block
    return data


def _crc32(key: bytes, data: Any) -> int:
    return zlib.crc32(data, zlib.crc32(key))


def _damaged(file: Path, reason: str) -> TheWorldError:
    return TheWorldError(f"{file}: damaged ({reason}); {PRECOMPUTE} to rebuild it")
