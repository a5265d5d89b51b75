"""Texts that we write and people may edit: a last line says whether a text is still as it was written."""

from hashlib import sha256
from pathlib import Path


def signed(text: str) -> str:
    """`text`, which ends with a newline, and a comment of Markdown with a digest of it."""
    return f"{text}<!-- written by theworld, {sha256(text.encode()).hexdigest()[:16]} -->\n"


def may_replace(path: Path) -> bool:
    """Whether nothing of a person is lost at `path`: nothing is there, or a text as `signed` made it."""
    if not path.is_file():
        return not path.exists()
    lines = path.read_text("utf-8", errors="replace").splitlines(keepends=True)
    return "".join(lines) == signed("".join(lines[:-1]))


__all__ = ["may_replace", "signed"]
