"""Matches untrusted regular expressions within a time limit."""

import time
from collections.abc import Iterable

import regex

from .errors import TheWorldError


def full_matches(pattern: str, names: Iterable[str], label: str, seconds: float = 2) -> list[str]:
    """The names that `pattern` matches completely, within `seconds` for all names together.

    Raises:
        ValueError: It is not a regular expression or takes too long; names `label` and the pattern.
    """
    end, now = time.monotonic() + seconds, time.monotonic
    try:
        return [name for name in names if regex.fullmatch(pattern, name, timeout=max(0.001, end - now()))]
    except (regex.error, TimeoutError) as error:
        raise TheWorldError(f"{label}={pattern!r}: cannot be matched ({error}); list the names") from error


__all__ = ["full_matches"]
