"""An OpenAI-compatible endpoint on loopback that says what a test tells it to say, and keeps what it was asked."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
"""Status and body; a body that is a text is what the judge says."""


@dataclass
class Judge:
    """A running endpoint.

    `say(asked, tries)` gives the answer to a request: `asked` is the object to be graded, `tries` how often it came
    before.
    """

    url: str
    say: Callable[[dict[str, Any], int], Answer]
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0

    def questions(self) -> list[str]:
        return [asked_of(request)["question"] for request in self.requests]


def asked_of(request: dict[str, Any]) -> dict[str, Any]:
    return json.loads(request["messages"][-1]["content"])


class _Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up, as one does whose key was refused: its words are read by the tests."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def running(say: Callable[[dict[str, Any], int], Answer], pause: float = 0.0) -> Iterator[Judge]:
    """Serve until the block ends; every answer comes after `pause` seconds."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = asked_of(request)
            with lock:
                tries = judge.questions().count(asked["question"])
                judge.requests.append({**request, "path": self.path})
                judge.keys.add(self.headers.get("Authorization", ""))
                judge.at_once += 1
                judge.most_at_once = max(judge.most_at_once, judge.at_once)
            time.sleep(pause)
            status, body = judge.say(asked, tries)
            with lock:
                judge.at_once -= 1
            if status == 200 and isinstance(body, str):
                message = {"role": "assistant", "content": body}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("retry-after-ms", "10")  # else the client would pause for half a second
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    judge = Judge(f"http://127.0.0.1:{server.server_address[1]}/v1", say)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
