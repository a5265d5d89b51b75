"""Serves the page, by default on loopback. The page loads nothing from other servers."""

import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from theworld.utils.errors import TheWorldError, brief
from theworld.utils.listening import listen
from theworld.utils.public_http import is_loopback

STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#lead h1 { font-size: 1.8rem; margin: .2rem 0; }
h3 { margin: .6rem 0 0; font-size: 1rem; }
.answer textarea { font-size: 1.5rem !important; font-weight: 600; line-height: 1.35; }
#world { border-left: 4px solid var(--color-accent); }
#simulated { border-left: 4px solid #d97706; padding-left: .7rem; }
#truth { font-size: 1.05rem; }
#scenes, .film { border: 0; background: none; }
.film .grid-wrap { padding: 0; height: auto !important; min-height: 0 !important; max-height: none !important;
  overflow: hidden; }
.film .grid-container { grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important; }
.film .caption-label { font-size: .7rem !important; padding: 0 .35rem; }
.rollout { width: 100%; border-radius: 8px; }
.looked { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .6rem; max-width: 860px; }
.looked figure { margin: 0; }
.looked img { width: 100%; border-radius: 8px; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
.keys i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; border-radius: 2px; }
.layer { display: flex; align-items: center; max-width: 860px; font-size: .85rem; }
.layer span { flex: 0 0 5rem; }
.layer b { display: flex; flex: 1; gap: 1px; }
.layer i { height: .8rem; margin: 2px 0; }
[data-testid="status-tracker"]:has(.error) { display: none !important; }
@media (max-width: 640px) {
  .film .grid-container { --grid-cols: 3 !important; }
  .looked { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
"""

# Browsers then load from and connect to this server only. `frame-ancestors` is last, so that an origin can be appended
CONTENT_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "form-action 'self'; frame-ancestors 'self'"
)
ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?")
FONT = ("system-ui", "sans-serif")
MAX_UPLOAD = "25mb"


def content_policy(embed_in: str | None = None) -> str:
    """The Content-Security-Policy of the page.

    Args:
        embed_in: Origin whose pages may show this one in a frame, such as https://huggingface.co.

    Raises:
        ValueError: `embed_in` is not an origin.
    """
    if embed_in is None:
        return CONTENT_POLICY
    if not ORIGIN.fullmatch(embed_in):
        raise TheWorldError(f"embed_in={brief(repr(embed_in))}: expected an origin, such as https://huggingface.co")
    return f"{CONTENT_POLICY} {embed_in}"


def serve(page: gr.Blocks, host: str = "127.0.0.1", port: int = 7860, policy: str = CONTENT_POLICY) -> str:
    """Serve `page` in the background; returns its address. `page.close()` ends it.

    Args:
        port: 0 takes any free port.
        policy: See `content_policy`.

    Raises:
        OSError: The port is in use, or `host` is not an address of this machine.
    """
    with listen(host, port) as free:  # Gradio does not take a socket, and its error about a port is unclear
        port = free.getsockname()[1]
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=MAX_UPLOAD,
        theme=gr.themes.Default(primary_hue="indigo", font=FONT, font_mono="monospace"),
        css=STYLE,
        app_kwargs={
            "middleware": [
                Middleware(TrustedHostMiddleware, hosts_of(host)),
                Middleware(ContentPolicyMiddleware, policy),
            ]
        },
    )
    return address


def hosts_of(host: str) -> list[str]:
    """Host names that requests may have.

    On loopback only loopback names are allowed, so that a web site cannot read the page by resolving its own name to
    loopback (DNS rebinding).
    """
    return ["127.0.0.1", "localhost", "::1", "[::1]", host] if is_loopback(host) else ["*"]


class ContentPolicyMiddleware:
    """ASGI middleware that sends `policy` with every response."""

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, and add the header to its responses."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", self.policy.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy)


@contextmanager
def private_uploads() -> Generator[None]:
    """Store uploads and images in a private temporary folder, unless `GRADIO_TEMP_DIR` is set.

    Gradio's default is one folder for all users of the machine.
    """
    if "GRADIO_TEMP_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="theworld-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["GRADIO_TEMP_DIR"]
