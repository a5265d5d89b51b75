"""Settings of a judge: one record per key, used by Python, the command line and `--help`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from theworld.utils.errors import TheWorldError
from theworld.utils.settings import keys, setting


# fmt: off
@dataclass(frozen=True)
class JudgeSettings:
    """Endpoint, model and request options of a judge.

    Raises:
        ValueError: A value is out of range, or the URL is invalid or contains credentials.
    """

    base_url: str = setting(
        "", "OpenAI-compatible endpoint that receives questions and answers, such as http://127.0.0.1:8000/v1.",
        unset="$OPENAI_BASE_URL")
    model: str = setting("", "Name of the judge model at the endpoint.", unset="required")
    api_key: str = setting("", "API key, never saved; empty for a server without keys.", secret=True)
    concurrency: int = setting(8, "Number of parallel requests.", low=1)
    timeout: float = setting(60.0, "Timeout of one attempt, in seconds.", above=0)
    retries: int = setting(5, "Retries after a timeout, a lost connection, or status 408, 409, 429 or 5xx.", low=0)
    temperature: float | None = setting(0.0, "Sampling temperature; `none`: the server's; some models reject 0.", low=0)
    json_mode: bool = setting(True, "Request a JSON `response_format`; some servers do not support it.")
# fmt: on

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query or parts.fragment:  # not shown: may contain a key
            raise TheWorldError("base_url holds credentials or a query: give the key by an environment variable")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TheWorldError(
                f"base_url={self.base_url!r}: expected a URL such as http://127.0.0.1:8000/v1; give --base_url or set "
                "OPENAI_BASE_URL"
            )
        if not self.model.strip():
            raise TheWorldError(f"model={self.model!r}: name the model that judges")
        for name, key in keys(type(self)).items():
            key.check(getattr(self, name))

    def without_key(self, text: str) -> str:
        """`text` with the API key replaced by `***`, and characters that UTF-8 cannot encode by `?`."""
        text = text.encode("utf-8", "replace").decode()
        return text.replace(self.api_key, "***") if self.api_key else text
