"""Images from the web: fetched by `theworld.utils.public_http`, checked, and stored on disk."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from theworld.utils.io import write_bytes, write_json
from theworld.utils.public_http import FetchError, fetch

from .images import open_image
from .schema import BadSample

SHOWN_OF_URL = 300


@dataclass
class ImageStore:
    """Downloaded images on disk, by URL. Several processes may share a folder, each with its copy of the store.

    A failed download is remembered by the store and its copies in worker processes: a dead link is requested once per
    run.
    """

    cache_folder: Path  # files are named by the SHA-256 of their URL
    _: KW_ONLY
    timeout: float = 10.0  # seconds for one image in total, including redirects
    max_bytes: int = 20 * 2**20  # largest size of a file
    max_pixels: int = 64 * 2**20  # largest width times height
    allow_private: bool = False  # allow addresses that are not public; only for your own servers

    def __post_init__(self) -> None:
        self._run = uuid.uuid4().hex

    def fetch(self, url: str, sha256: str | None = None) -> Path:
        """The file of an image at an http(s) URL, downloaded unless it is stored and its hash is `sha256`, in hex.

        Raises:
            BadSample: With the cause `bad_url`, `private_address`, `connection`, `timeout`, `http_<status>`,
                `redirects`, `too_large`, `sha256`, or one of those of `open_image`.
        """
        path = self._path(url)
        if path.is_file() and (sha256 is None or _sha256(path.read_bytes()) == sha256.lower()):
            return path
        failure = self._path(f"{url} {sha256}").with_suffix(".failed")
        known: dict[str, Any] = json.loads(failure.read_text(encoding="utf-8")) if failure.is_file() else {"run": None}
        if known["run"] == self._run:
            raise BadSample(known["cause"], known["detail"])
        try:
            write_bytes(path, self._download(url, sha256))
        except BadSample as bad:
            detail = f"{url[:SHOWN_OF_URL]}: {bad.detail}"
            write_json(failure, {"run": self._run, "cause": bad.cause, "detail": detail})
            raise BadSample(bad.cause, detail) from bad
        return path

    def _path(self, key: str) -> Path:
        name = _sha256(key.encode())
        return self.cache_folder / name[:2] / name

    def _download(self, url: str, sha256: str | None) -> bytes:
        try:
            data = fetch(url, timeout=self.timeout, max_bytes=self.max_bytes, allow_private=self.allow_private)
        except FetchError as error:
            raise BadSample(error.cause, error.detail) from error
        if sha256 is not None and _sha256(data) != sha256.lower():
            raise BadSample("sha256", f"got {_sha256(data)}, expected {sha256}")
        width, height = open_image(data).size
        if width * height > self.max_pixels:
            raise BadSample("too_large", f"{width} x {height}, expected at most {self.max_pixels:,} pixels")
        return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
