"""Downloads from a hostile web, on a real server: limits, addresses, checks, and the cache."""

from __future__ import annotations

import hashlib
import pickle
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from theworld.data import download
from theworld.data.download import ImageStore, is_public
from theworld.data.images import open_image
from theworld.data.schema import BadSample


def png(side: int = 32) -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PICTURE = png()
DIGEST = hashlib.sha256(PICTURE).hexdigest()


class Web(ThreadingHTTPServer):
    """Serves a picture at most paths; counts what is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.asked = Counter[str]()
        self.closing = threading.Event()
        self.picture = PICTURE
        self.targets: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Page(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        name = self.path.strip("/")
        if name.startswith("status-"):
            self.send_error(int(name[7:]))
        elif name.startswith("to-"):
            self.send_response(302)
            self.send_header("Location", self.server.targets[name])
            self.end_headers()
        elif name == "drip":
            self.drip(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + PICTURE)
        elif name == "drip-headers":
            self.drip(b"HTTP/1.1 200 OK\r\nX-Endless: " + b"x" * 1000)
        elif name == "silence":
            self.server.closing.wait(10)
        elif name == "endless":
            self.send_response(200)
            self.end_headers()
            while not self.server.closing.is_set():
                self.wfile.write(b"x" * 65536)
        elif name == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(PICTURE)))
            self.end_headers()
            self.wfile.write(PICTURE[:100])
        else:
            self.answer(b"<html>gone</html>" if name == "page" else self.server.picture)

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drip(self, data: bytes) -> None:
        for byte in data:
            if self.server.closing.wait(0.05):
                return
            self.wfile.write(bytes([byte]))

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client has had enough
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


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


def test_names_need_not_be_ascii(web: Web, store: ImageStore) -> None:
    store.fetch(f"{web.url}/gr\u00fcn und blau.png?q=\u00e4#part")
    assert list(web.asked) == ["/gr%C3%BCn%20und%20blau.png?q=%C3%A4"]


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
    web.picture = png(side=65)
    assert cause_of(store, f"{web.url}/wide.png") == "too_large"


@pytest.mark.parametrize("name", ["drip", "drip-headers", "silence"])
def test_a_slow_server_does_not_hold_a_run(web: Web, tmp_path: Path, name: str) -> None:
    store = ImageStore(tmp_path, timeout=0.4, allow_private=True)
    start = time.monotonic()
    assert cause_of(store, f"{web.url}/{name}") == "timeout"
    assert time.monotonic() - start < 2


def test_a_slow_resolver_does_not_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1) or [])
    start = time.monotonic()
    assert cause_of(ImageStore(tmp_path, timeout=0.2), "http://example.com/a.png") == "timeout"
    assert time.monotonic() - start < 0.9


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


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "0.0.0.0", "2130706433"]
)
def test_addresses_that_are_not_public_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was made"))
    assert cause_of(ImageStore(tmp_path, timeout=5), f"http://{host}/a.png") == "private_address"


def test_loopback_is_refused_by_default(web: Web, tmp_path: Path) -> None:
    assert cause_of(ImageStore(tmp_path), f"{web.url}/a.png") == "private_address"
    assert not web.asked


def test_one_private_address_among_public_ones_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "192.168.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was made"))
    assert cause_of(ImageStore(tmp_path), "http://example.com/a.png") == "private_address"


def test_the_connection_goes_to_the_address_that_was_checked(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, connect = socket.getaddrinfo, socket.create_connection
    answers = iter(["8.8.8.8", "127.0.0.1"])  # a name that is public when checked, and loopback when asked again
    connected: list[str] = []

    def rebinding(host: str, port: int, *args: int, **options: int) -> list[object]:
        return list(resolve(next(answers) if host == "rebind.example" else host, port, *args, **options))

    def to_the_test_server(address: tuple[str, int], *args: float, **options: object) -> socket.socket:
        connected.append(address[0])
        return connect(("127.0.0.1", address[1]), *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(socket, "create_connection", to_the_test_server)
    ImageStore(tmp_path).fetch(f"http://rebind.example:{web.server_port}/a.png")
    assert connected == ["8.8.8.8"]
    assert next(answers) == "127.0.0.1"  # it was not resolved a second time


def test_redirects_are_followed_and_checked(web: Web, store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    web.targets = {"to-b": "/b.png", "to-a": "to-b", "to-me": "/to-me", "to-file": "file:///etc/passwd"}
    assert store.fetch(f"{web.url}/to-a").read_bytes() == PICTURE
    assert cause_of(store, f"{web.url}/to-me") == "redirects"
    assert web.asked["/to-me"] == 1 + download.MAX_REDIRECTS
    with pytest.raises(BadSample) as bad:
        store.fetch(f"{web.url}/to-file")
    assert bad.value.cause == "bad_url"


def test_a_redirect_to_a_private_address_is_refused(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.targets = {"to-metadata": "http://169.254.169.254/latest/meta-data"}
    allowed = is_public
    monkeypatch.setattr(download, "is_public", lambda address: address == "127.0.0.1" or allowed(address))
    with pytest.raises(BadSample) as bad:
        ImageStore(tmp_path).fetch(f"{web.url}/to-metadata")
    assert bad.value.cause == "private_address"
    assert "169.254.169.254" in bad.value.detail


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("2002:808:808::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("0.0.0.0", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("ff0e::1", False),
        ("::ffff:127.0.0.1", False),
        ("::127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public
