"""Downloads from a real server: what is kept, checked, and remembered as a failure."""

from __future__ import annotations

import hashlib
import pickle
import socket
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.web import Web, serving
from theworld.data.download import ImageStore
from theworld.data.images import open_image
from theworld.data.schema import BadSample


def png(side: int = 32) -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = png()
DIGEST = hashlib.sha256(PICTURE).hexdigest()


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(PICTURE) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "cache", timeout=5, max_bytes=100_000, max_pixels=64 * 64, allow_private=True)


def cause_of(store: ImageStore, url: str, sha256: str | None = None) -> str:
    with pytest.raises(BadSample) as bad:
        store.fetch(url, sha256)
    assert bad.value.detail.startswith(f"{url}: ")
    return bad.value.cause


def test_a_picture_comes_once(web: Web, store: ImageStore) -> None:
    path = store.fetch(f"{web.url}/a.png", DIGEST)
    assert path.read_bytes() == PICTURE
    assert open_image(path).size == (32, 32)
    assert store.fetch(f"{web.url}/a.png") == path
    assert ImageStore(store.cache_folder, allow_private=True).fetch(f"{web.url}/a.png", DIGEST.upper()) == path
    assert store.fetch(f"{web.url}/b.png") != path
    assert web.asked == {"/a.png": 1, "/b.png": 1}


def test_what_is_no_answer_is_refused_by_cause(web: Web, store: ImageStore) -> None:
    assert cause_of(store, f"{web.url}/status-404") == "http_404"
    assert cause_of(store, f"{web.url}/status-500") == "http_500"
    assert cause_of(store, f"{web.url}/page") == "not_an_image"
    assert cause_of(store, f"{web.url}/cut") == "connection"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert cause_of(store, f"http://127.0.0.1:{closed.getsockname()[1]}/x.png") == "connection"
    assert not [path for path in store.cache_folder.rglob("*") if path.is_file() and path.suffix != ".failed"]


@pytest.mark.parametrize(
    "url", ["ftp://h/a.png", "file:///etc/passwd", "a.png", "http://", "http://[::1", "http://h:x/"]
)
def test_what_is_no_web_address_is_refused(store: ImageStore, url: str) -> None:
    with pytest.raises(BadSample) as bad:
        store.fetch(url)
    assert bad.value.cause == "bad_url"


def test_another_content_is_refused(web: Web, store: ImageStore) -> None:
    assert cause_of(store, f"{web.url}/a.png", "0" * 64) == "sha256"
    assert not list(store.cache_folder.rglob("[0-9a-f]" * 64))


def test_a_damaged_file_on_disk_is_fetched_again(web: Web, store: ImageStore) -> None:
    path = store.fetch(f"{web.url}/a.png", DIGEST)
    path.write_bytes(PICTURE[:100])
    assert store.fetch(f"{web.url}/a.png", DIGEST).read_bytes() == PICTURE
    assert web.asked["/a.png"] == 2


def test_sizes_are_limited(web: Web, store: ImageStore) -> None:
    assert cause_of(store, f"{web.url}/endless") == "too_large"
    web.content = png(side=65)
    assert cause_of(store, f"{web.url}/wide.png") == "too_large"


def test_failures_are_asked_once_in_a_run_and_again_in_the_next(web: Web, store: ImageStore) -> None:
    for _ in range(2):
        assert cause_of(store, f"{web.url}/status-404") == "http_404"
    assert cause_of(pickle.loads(pickle.dumps(store)), f"{web.url}/status-404") == "http_404"
    assert web.asked["/status-404"] == 1
    assert cause_of(ImageStore(store.cache_folder, allow_private=True), f"{web.url}/status-404") == "http_404"
    assert web.asked["/status-404"] == 2


def test_a_wrong_hash_does_not_block_the_right_one(web: Web, store: ImageStore) -> None:
    assert cause_of(store, f"{web.url}/a.png", "0" * 64) == "sha256"
    assert store.fetch(f"{web.url}/a.png", DIGEST).read_bytes() == PICTURE


def test_loopback_is_refused_by_default(web: Web, tmp_path: Path) -> None:
    assert cause_of(ImageStore(tmp_path), f"{web.url}/a.png") == "private_address"
    assert not web.asked


def test_a_slow_server_does_not_hold_a_run(web: Web, tmp_path: Path) -> None:
    store = ImageStore(tmp_path, timeout=0.3, allow_private=True)
    assert cause_of(store, f"{web.url}/drip") == "timeout"
