"""Error messages for people, without secrets."""

import os
import re

HUB_TOKEN = "HF_TOKEN"
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_secrets: set[str] = set()


def one_line(error: BaseException) -> str:
    """The message of `error` on one line, without tokens, and without the quotes that a `KeyError` puts around it."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return without_tokens(" ".join(str(message).split()))


def keep_secret(token: str) -> None:
    """Cut `token` out of every error line and log line of this process from now on."""
    _secrets.add(token)


def without_tokens(text: str) -> str:
    """`text` without Hub tokens: those that were given, `HF_TOKEN`, and what has the form of one.

    A server may echo the token in its error, and a user may write it under a wrong key.
    """
    for secret in {*_secrets, os.environ.get(HUB_TOKEN, "")}:
        text = text.replace(secret, "hf_***") if secret else text
    return _TOKEN.sub("hf_***", text)


class CausedError(ValueError):
    """An error that is counted by its cause.

    Args:
        cause: One word.
        detail: One line for a person.
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(cause, detail)  # both, so that it can be pickled
        self.cause = cause
        self.detail = detail

    def __str__(self) -> str:
        return self.detail
