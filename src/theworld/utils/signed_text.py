"""Marks generated texts with a digest in their last line, which shows whether a user edited them."""

from hashlib import sha256
from pathlib import Path


def signed(text: str) -> str:
    """`text`, which ends with a newline, followed by a Markdown comment with its digest."""
    return f"{text}<!-- written by theworld, {sha256(text.encode()).hexdigest()[:16]} -->\n"


def may_replace(path: Path) -> bool:
    """Whether `path` does not exist, or holds an unedited text of `signed`."""
    if not path.is_file():
        return not path.exists()
    lines = path.read_text("utf-8", errors="replace").splitlines(keepends=True)
    return "".join(lines) == signed("".join(lines[:-1]))


__all__ = ["may_replace", "signed"]
