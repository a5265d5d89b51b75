"""A web server on loopback that misbehaves in the ways of the web."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web(ThreadingHTTPServer):
    """Serves `content` at most paths; counts what is asked."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.asked = Counter[str]()
        self.closing = threading.Event()
        self.content = content
        self.targets: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Page(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        name, content = self.path.strip("/"), self.server.content
        if name.startswith("status-"):
            self.send_error(int(name[7:]))
        elif name.startswith("to-"):
            self.send_response(302)
            self.send_header("Location", self.server.targets[name])
            self.end_headers()
        elif name == "drip":
            self.drip(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n" + content)
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
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:100])
        else:
            self.answer(b"<html>gone</html>" if name == "page" else content)

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


@contextmanager
def serving(content: bytes) -> Iterator[Web]:
    server = Web(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()
