"""Pictures from the web, for which every address is hostile until shown otherwise: checked, limited, and kept on disk.

A name is resolved once, all its addresses must be public, and the connection goes to the address that was checked; a
redirect starts over. Proxies of the environment are not used: they would resolve the name once more.
"""

from __future__ import annotations

import hashlib
import json
import queue
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Iterable
from functools import cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import httpcore

from theworld.utils.io import write_bytes, write_json

from .images import open_image
from .schema import BadSample

MAX_REDIRECTS = 5
SHOWN_OF_URL = 300
HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": "theworld (downloads training images)",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}
_REDIRECTS = (301, 302, 303, 307, 308)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_KEPT_IN_URLS = "/%:@!$&'()*+,;=~?"


class ImageStore:
    """Downloaded pictures on disk, by URL. Several processes may share a folder; a copy in each is fine.

    What could not be had is remembered as long as the store lives, its copies in worker processes included: a dead
    link is asked once in a run, and again in the next one.

    Args:
        cache_folder: Where the files lie, named by the SHA-256 of their URL.
        timeout: Seconds for one picture altogether, redirects included, however slowly it drips.
        max_bytes: Of a file.
        max_pixels: Width times height.
        allow_private: Also ask addresses that are not public. Only for servers of one's own.
    """

    def __init__(
        self,
        cache_folder: Path,
        *,
        timeout: float = 10.0,
        max_bytes: int = 20 * 2**20,
        max_pixels: int = 64 * 2**20,
        allow_private: bool = False,
    ) -> None:
        self.cache_folder = cache_folder
        self.timeout = timeout
        self.max_bytes = max_bytes
        self.max_pixels = max_pixels
        self.allow_private = allow_private
        self._run = uuid.uuid4().hex

    def fetch(self, url: str, sha256: str | None = None) -> Path:
        """The file of a picture, downloaded unless it is there.

        Args:
            url: http or https.
            sha256: What the file must hash to, in hex; one on disk that does not is downloaded again.

        Raises:
            BadSample: With the cause `bad_url`, `private_address`, `connection`, `timeout`, `http_<status>`,
                `redirects`, `too_large`, `sha256`, or one of those of `open_image`.
            OSError: The folder cannot be written.
        """
        path = self._path(url)
        if path.is_file() and (sha256 is None or _sha256(path.read_bytes()) == sha256.lower()):
            return path
        failure = self._path(f"{url} {sha256}").with_suffix(".failed")
        self._raise_remembered(failure)
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

    def _raise_remembered(self, failure: Path) -> None:
        if failure.is_file():
            known = json.loads(failure.read_text(encoding="utf-8"))
            if known["run"] == self._run:
                raise BadSample(known["cause"], known["detail"])

    def _download(self, url: str, sha256: str | None) -> bytes:
        try:
            data = self._get(url, time.monotonic() + self.timeout)
        except httpcore.TimeoutException as error:
            raise BadSample("timeout", f"not there after {self.timeout:g} s") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise BadSample("connection", str(error) or type(error).__name__) from error
        if sha256 is not None and _sha256(data) != sha256.lower():
            raise BadSample("sha256", f"{_sha256(data)} came, {sha256} was expected")
        width, height = open_image(data).size
        if width * height > self.max_pixels:
            raise BadSample("too_large", f"{width} x {height}, allowed are {self.max_pixels:,} pixels")
        return data

    def _get(self, url: str, deadline: float) -> bytes:
        backend = _CheckedBackend(deadline, self.allow_private)
        for _ in range(1 + MAX_REDIRECTS):
            url = _checked(url)
            with (
                httpcore.ConnectionPool(ssl_context=_ssl_context(), network_backend=backend) as pool,
                pool.stream("GET", url, headers=HEADERS) as response,
            ):
                location = {name.lower(): value for name, value in response.headers}.get(b"location")
                if response.status in _REDIRECTS and location:
                    url = urljoin(url, location.decode("utf-8", "replace"))
                    continue
                if response.status != 200:
                    raise BadSample(f"http_{response.status}", f"HTTP status {response.status}")
                return self._body(response)
        raise BadSample("redirects", f"more than {MAX_REDIRECTS} redirects")

    def _body(self, response: httpcore.Response) -> bytes:
        data = bytearray()
        for chunk in response.iter_stream():
            data += chunk
            if len(data) > self.max_bytes:
                raise BadSample("too_large", f"more than {self.max_bytes:,} bytes")
        return bytes(data)


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to public addresses only, and lets no step take longer than what is left until `deadline`."""

    def __init__(self, deadline: float, allow_private: bool) -> None:
        self.deadline = deadline
        self.allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = _resolve(host, port, _left(self.deadline))
        for address in addresses:
            if not (self.allow_private or is_public(address)):
                raise BadSample("private_address", f"{host} is {address}: only public addresses are asked")
        for address in addresses[:-1]:
            try:
                return self._connect(address, port)
            except httpcore.ConnectError:
                continue
        return self._connect(addresses[-1], port)

    def _connect(self, address: str, port: int) -> httpcore.NetworkStream:
        stream = httpcore.SyncBackend().connect_tcp(address, port, _left(self.deadline))
        return _TimedStream(stream, self.deadline)


class _TimedStream(httpcore.NetworkStream):
    """A connection that ends at `deadline`; a limit for each read would let a slow server drip for ever."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self.stream = stream
        self.deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, _left(self.deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, _left(self.deadline))

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self.stream.start_tls(ssl_context, server_hostname, _left(self.deadline))
        return _TimedStream(stream, self.deadline)

    def get_extra_info(self, info: str) -> Any:
        return self.stream.get_extra_info(info)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not private, loopback, link-local, reserved or multicast.

    An IPv6 address that stands for an IPv4 one is as public as that.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        if embedded := parsed.ipv4_mapped or parsed.sixtofour:
            return is_public(str(embedded))
        return parsed.is_global and parsed in _GLOBAL_UNICAST
    return parsed.is_global and not parsed.is_multicast


def _checked(url: str) -> str:
    """The URL in ASCII, without what a request does not carry: user, password, fragment.

    Raises:
        BadSample: `bad_url`: it is not http or https, names no host, or is no URL.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").encode("idna").decode()
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise BadSample("bad_url", f"not a URL ({error})") from error
    if parts.scheme not in ("http", "https") or not host:
        raise BadSample("bad_url", f"{url[:SHOWN_OF_URL]!r}: expected http:// or https:// and a host")
    host = f"[{host}]" if ":" in host else host
    path, query = (quote(part, safe=_KEPT_IN_URLS) for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, host + port, path, query, ""))


def _resolve(host: str, port: int, seconds: float) -> list[str]:
    """The addresses of a name, in the system's order; asked in a thread, as the system's resolver knows no limit."""
    answers: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([str(address[0]) for *_, address in found])
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty as error:
        raise httpcore.ConnectTimeout(f"{host} was not resolved in time") from error
    if isinstance(answer, list):
        return answer
    raise httpcore.ConnectError(f"{host}: {answer}") from answer


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("out of time")
    return left


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@cache
def _ssl_context() -> ssl.SSLContext:
    return httpcore.default_ssl_context()
