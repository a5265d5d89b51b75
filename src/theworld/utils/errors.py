"""Errors: those that a user can correct, and their messages on one line, without secrets."""

import dis
import os
import re

HUB_TOKEN = "HF_TOKEN"
SHOWN = 200  # characters of a value in an error line
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_secrets: set[str] = set()

USERS = (ValueError, KeyError, ImportError, OSError, MemoryError)
USERS_BY_NAME = ("OutOfMemoryError", "SafetensorError", "StrictDataclassError")
"""Classes of torch, safetensors and huggingface_hub: to import them here would import those packages."""


def is_users(error: BaseException) -> bool:
    """Whether a user can correct `error`; anything else is a bug.

    The package raises ValueError, KeyError, ImportError and OSError with a message for users, as do the libraries it
    stands on. A ValueError or KeyError that no `raise` statement made, but Python itself (a missing key, a wrong number
    of values to unpack), has no such message: it is a bug.
    """
    if not isinstance(error, USERS):
        return any(base.__name__ in USERS_BY_NAME for base in type(error).__mro__)
    place = error.__traceback__
    if type(error) not in (ValueError, KeyError) or place is None:
        return True
    while place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code
    compiled = not code.co_filename.endswith(".py")  # Cython: what it raises, it raises on purpose
    return compiled or code.co_code[place.tb_lasti] == dis.opmap["RAISE_VARARGS"]


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


def brief(text: str) -> str:
    """What an error line shows of a value: no tokens, and about 200 characters at most."""
    text = without_tokens(text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


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
