"""Fetches URLs, from public addresses only, within limits of size and total time.

A name is resolved once, all its addresses must be public, and the connection goes to the address that was checked. Each
redirect is checked in the same way. Proxies of the environment are not used, because they would resolve the name again.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from functools import cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import httpcore

from .errors import CausedError

MAX_REDIRECTS = 5
HEADERS: dict[bytes | str, bytes | str] = {
    "User-Agent": "theworld (fetches images)",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}
_REDIRECTS = (301, 302, 303, 307, 308)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_KEPT_IN_URLS = "/%:@!$&'()*+,;=~?"
_SHOWN_OF_URL = 300


class FetchError(CausedError):
    """A URL that cannot be fetched.

    Args:
        cause: One word for counts: `bad_url`, `private_address`, `connection`, `timeout`, `http_<status>`, `redirects`
            or `too_large`.
        detail: One line to read.
    """


def fetch(url: str, *, timeout: float, max_bytes: int, allow_private: bool = False) -> bytes:
    """The body of an http or https URL.

    Args:
        url: Its path and query need not be ASCII.
        timeout: Seconds for the whole call: resolution, redirects and body.
        max_bytes: Size limit of the body.
        allow_private: Also connect to addresses that are not public. Only for your own servers.

    Raises:
        FetchError: With a cause; the detail does not repeat the URL.
    """
    backend = _CheckedBackend(time.monotonic() + timeout, allow_private)
    try:
        return _get(url, backend, max_bytes)
    except httpcore.TimeoutException as error:
        raise FetchError("timeout", f"not complete after {timeout:g} s") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise FetchError("connection", str(error) or type(error).__name__) from error


def is_public(address: str) -> bool:
    """Whether an IP address is public: not private, loopback, link-local, reserved or multicast.

    An IPv6 address that embeds an IPv4 address is public if that is.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        if embedded := parsed.ipv4_mapped or parsed.sixtofour:
            return is_public(str(embedded))
        return parsed.is_global and parsed in _GLOBAL_UNICAST
    return parsed.is_global and not parsed.is_multicast


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _get(url: str, backend: _CheckedBackend, max_bytes: int) -> bytes:
    target, url = url, ""
    for _ in range(1 + MAX_REDIRECTS):
        url = _checked(target, url)
        with (
            httpcore.ConnectionPool(ssl_context=_ssl_context(), network_backend=backend) as pool,
            pool.stream("GET", url, headers=HEADERS) as response,
        ):
            location = {name.lower(): value for name, value in response.headers}.get(b"location")
            if response.status in _REDIRECTS and location:
                target = location.decode("utf-8", "replace")
                continue
            if response.status != 200:
                raise FetchError(f"http_{response.status}", f"HTTP status {response.status}")
            return _body(response, max_bytes)
    raise FetchError("redirects", f"more than {MAX_REDIRECTS} redirects")


def _body(response: httpcore.Response, max_bytes: int) -> bytes:
    data = bytearray()
    for chunk in response.iter_stream():
        data += chunk
        if len(data) > max_bytes:
            raise FetchError("too_large", f"more than {max_bytes:,} bytes")
    return bytes(data)


class _CheckedBackend(httpcore.NetworkBackend):
    """Connects to public addresses only, and ends every step at `deadline`."""

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
                raise FetchError("private_address", f"{host} is {address}: only public addresses are allowed")
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
    """A connection that ends at `deadline`. With a limit per read, a slow server could send forever."""

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


def _checked(url: str, base: str) -> str:
    """The URL, relative to `base`, in ASCII, without user, password and fragment.

    Raises:
        FetchError: `bad_url`: it is not http or https, has no host, or is not a URL.
    """
    try:
        parts = urlsplit(urljoin(base, url.strip()))
        host = (parts.hostname or "").encode("idna").decode()
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise FetchError("bad_url", f"not a URL ({error})") from error
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError("bad_url", f"{url[:_SHOWN_OF_URL]!r}: expected http:// or https:// and a host")
    host = f"[{host}]" if ":" in host else host
    path, query = (quote(part, safe=_KEPT_IN_URLS) for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, host + port, path, query, ""))


def _resolve(host: str, port: int, seconds: float) -> list[str]:
    """The addresses of a name, in the system's order. Resolved in a thread, because the resolver has no time limit."""
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


@cache
def _ssl_context() -> ssl.SSLContext:
    return httpcore.default_ssl_context()
