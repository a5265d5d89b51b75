"""Fetching from a real server: public addresses only, limits of size and time, redirects checked."""

import socket
import time
from collections.abc import Iterator

import pytest

from tests.web import Web, serving
from theworld.utils import public_http
from theworld.utils.public_http import MAX_REDIRECTS, FetchError, fetch, is_loopback, is_public

BODY = b"0123456789" * 20


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(BODY) as server:
        yield server


@pytest.fixture
def loopback_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the server of the test counts as public, beside what is."""
    monkeypatch.setattr(public_http, "is_public", lambda address: address == "127.0.0.1" or is_public(address))


def get(url: str, *, timeout: float = 5, max_bytes: int = 1000) -> bytes:
    return fetch(url, timeout=timeout, max_bytes=max_bytes)


def cause_of(url: str, **limits: float) -> str:
    with pytest.raises(FetchError) as error:
        get(url, **limits)
    assert error.value.detail
    assert "\n" not in error.value.detail
    return error.value.cause


@pytest.mark.usefixtures("loopback_allowed")
def test_a_body_is_fetched(web: Web) -> None:
    assert get(f"{web.url}/a.png") == BODY
    assert get(f"{web.url}/a.png", max_bytes=len(BODY)) == BODY


@pytest.mark.usefixtures("loopback_allowed")
def test_names_need_not_be_ascii(web: Web) -> None:
    get(f"{web.url}/gr\u00fcn und blau.png?q=\u00e4#part")
    assert list(web.asked) == ["/gr%C3%BCn%20und%20blau.png?q=%C3%A4"]


@pytest.mark.usefixtures("loopback_allowed")
def test_what_is_no_answer_is_refused_by_cause(web: Web) -> None:
    assert cause_of(f"{web.url}/status-404") == "http_404"
    assert cause_of(f"{web.url}/status-500") == "http_500"
    assert cause_of(f"{web.url}/cut") == "connection"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert cause_of(f"http://127.0.0.1:{closed.getsockname()[1]}/x.png") == "connection"


@pytest.mark.parametrize(
    "url", ["ftp://h/a.png", "file:///etc/passwd", "a.png", "http://", "http://[::1", "http://h:x/"]
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    assert cause_of(url) == "bad_url"


@pytest.mark.usefixtures("loopback_allowed")
def test_the_size_is_limited_while_it_comes(web: Web) -> None:
    start = time.monotonic()
    assert cause_of(f"{web.url}/endless", max_bytes=200_000) == "too_large"
    assert cause_of(f"{web.url}/a.png", max_bytes=len(BODY) - 1) == "too_large"
    assert time.monotonic() - start < 2


@pytest.mark.usefixtures("loopback_allowed")
@pytest.mark.parametrize("name", ["drip", "drip-headers", "silence"])
def test_the_time_is_limited_in_total(web: Web, name: str) -> None:
    start = time.monotonic()
    assert cause_of(f"{web.url}/{name}", timeout=0.4) == "timeout"
    assert time.monotonic() - start < 2


def test_resolution_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1) or [])
    start = time.monotonic()
    assert cause_of("http://example.com/a.png", timeout=0.2) == "timeout"
    assert time.monotonic() - start < 0.9


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "0.0.0.0", "2130706433"]
)
def test_addresses_that_are_not_public_are_not_asked(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was made"))
    assert cause_of(f"http://{host}/a.png") == "private_address"


def test_loopback_is_refused_unless_allowed(web: Web) -> None:
    assert cause_of(f"{web.url}/a.png") == "private_address"
    assert not web.asked
    assert fetch(f"{web.url}/a.png", timeout=5, max_bytes=1000, allow_private=True) == BODY


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "192.168.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was made"))
    assert cause_of("http://example.com/a.png") == "private_address"


def test_the_connection_goes_to_the_address_that_was_checked(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert get(f"http://rebind.example:{web.server_port}/a.png") == BODY
    assert connected == ["8.8.8.8"]
    assert next(answers) == "127.0.0.1"  # it was not resolved a second time


@pytest.mark.usefixtures("loopback_allowed")
def test_redirects_are_followed_and_checked(web: Web) -> None:
    web.targets = {"to-b": "/b.png", "to-a": "to-b", "to-me": "/to-me", "to-file": "file:///etc/passwd"}
    web.targets |= {"to-nowhere": "http://[::1", "to-metadata": "http://169.254.169.254/latest/meta-data"}
    assert get(f"{web.url}/to-a") == BODY
    assert cause_of(f"{web.url}/to-me") == "redirects"
    assert web.asked["/to-me"] == 1 + MAX_REDIRECTS
    assert cause_of(f"{web.url}/to-file") == "bad_url"
    assert cause_of(f"{web.url}/to-nowhere") == "bad_url"
    assert cause_of(f"{web.url}/to-metadata") == "private_address"


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


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)]
)
def test_which_hosts_are_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
