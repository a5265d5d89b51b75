"""Who judges, and how it is asked: one record a key, for Python, the command line and its help."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from theworld.utils.errors import TheWorldError
from theworld.utils.settings import keys, setting


# fmt: off
@dataclass(frozen=True)
class JudgeSettings:
    """Who judges, and how it is asked.

    Raises:
        ValueError: A value is out of range, or the URL is none or holds credentials.
    """

    base_url: str = setting(
        "", "OpenAI-compatible endpoint that gets questions and answers, such as http://127.0.0.1:8000/v1.",
        unset="$OPENAI_BASE_URL")
    model: str = setting("", "The model that judges, as the endpoint names it.", unset="none: it must be named")
    api_key: str = setting("", "Never written anywhere; empty for a server that wants none.", secret=True)
    concurrency: int = setting(8, "Requests at a time.", low=1)
    timeout: float = setting(60.0, "Seconds that one try may take.", above=0)
    retries: int = setting(5, "Further tries after a timeout, a lost connection, 408, 409, 429 or 5xx.", low=0)
    temperature: float | None = setting(0.0, "`none` leaves it to the server: some models refuse 0.", low=0)
    json_mode: bool = setting(True, "Ask for `response_format` JSON, which some servers do not know.")
# fmt: on

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query or parts.fragment:  # not shown, as one may be a key
            raise TheWorldError("base_url holds credentials or a query: give the key by an environment variable")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TheWorldError(
                f"base_url={self.base_url!r}: expected such as http://127.0.0.1:8000/v1; give --base_url or set "
                "OPENAI_BASE_URL"
            )
        if not self.model.strip():
            raise TheWorldError(f"model={self.model!r}: name the model that judges")
        for name, key in keys(type(self)).items():
            key.check(getattr(self, name))

    def without_key(self, text: str) -> str:
        """`text`, in which a server may have quoted the key, without it; with `?` for what no file can hold."""
        text = text.encode("utf-8", "replace").decode()
        return text.replace(self.api_key, "***") if self.api_key else text
