"""An OpenAI-compatible endpoint. The `openai` client retries with growing pauses; the key is written nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from theworld.utils.errors import TheWorldError
from theworld.utils.imports import require


@dataclass(frozen=True)
class JudgeSettings:
    """Who judges, and how it is asked.

    Raises:
        ValueError: A value is out of range, or the URL is none or holds credentials.
    """

    base_url: str  # of the endpoint, such as http://127.0.0.1:8000/v1; what is judged is sent there
    model: str  # name that the endpoint knows
    api_key: str = field(default="", repr=False)  # never written anywhere; empty for a server that wants none
    concurrency: int = 8  # requests at a time
    timeout: float = 60.0  # seconds that one try may take
    retries: int = 5  # further tries after a timeout, a lost connection, 408, 409, 429 or 5xx
    temperature: float | None = 0.0  # None leaves it to the server
    json_mode: bool = True  # ask for `response_format` JSON, which some servers do not know

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query or parts.fragment:  # not shown, as one may be a key
            raise TheWorldError("base_url holds credentials or a query: give the key by an environment variable")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TheWorldError(f"base_url={self.base_url!r}: expected such as http://127.0.0.1:8000/v1")
        if not self.model.strip():
            raise TheWorldError("model='': name the model that judges")
        for name, low in (("concurrency", 1), ("retries", 0), ("timeout", 0.001)):
            if getattr(self, name) < low:
                raise TheWorldError(f"{name}={getattr(self, name)}: expected at least {low}")

    @property
    def identity(self) -> dict[str, Any]:
        """What may not change while a run of this judge goes on."""
        return {"base_url": self.base_url, "model": self.model, "temperature": self.temperature}

    def without_key(self, text: str) -> str:
        """`text`, in which a server may have quoted the key, without it; with `?` for what no file can hold."""
        text = text.encode("utf-8", "replace").decode()
        return text.replace(self.api_key, "***") if self.api_key else text


class Endpoint:
    """A client of one endpoint; safe to use from several threads.

    Raises:
        ImportError: The extra `judge` is not installed.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self.openai = require("judge", "openai")
        self.client: Any = self.openai.OpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key or "none",  # the client wants one, also for a server without keys
            timeout=settings.timeout,
            max_retries=settings.retries,
        )
        self.options: dict[str, Any] = {"model": settings.model}
        self.options |= {} if settings.temperature is None else {"temperature": settings.temperature}
        self.options |= {"response_format": {"type": "json_object"}} if settings.json_mode else {}

    def ask(self, messages: list[dict[str, str]]) -> tuple[str | None, str | None]:
        """The reply to `messages` and `None`, or `None` and the failure that outlived the retries.

        Raises:
            ValueError: The endpoint refuses the key, or knows no such model or path: nothing else would be answered.
        """
        openai = self.openai
        try:
            completion = self.client.chat.completions.create(messages=messages, **self.options)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            advice = "check the key's variable, --base_url and --model"
            raise TheWorldError(f"{self.settings.base_url}: {self._told(error)}; {advice}") from None
        except (openai.OpenAIError, ValueError) as error:  # a ValueError if the body of the answer is no JSON
            return None, self._told(error)
        text = completion.choices[0].message.content if getattr(completion, "choices", None) else None
        if not text:
            return None, "EmptyReply: the endpoint answered without a text"
        return self.settings.without_key(text), None

    def _told(self, error: Exception) -> str:
        told = " ".join(self.settings.without_key(str(error)).split())[:300]  # cut last: half a key is no longer found
        return f"{type(error).__name__}: {told}"
