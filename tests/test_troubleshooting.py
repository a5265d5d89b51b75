"""The troubleshooting page lists messages that the code has."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def texts() -> str:
    """Every text of the package, with what f-strings fill in left out."""
    found: list[str] = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("\0".join(part.value for part in node.values if isinstance(part, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_messages_of_the_page_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    phrases = [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row)]
    known, missing = texts(), []
    for phrase in phrases:
        # What a message fills in: dots, numbers, values in quotes and behind =, names of files and checkpoints
        parts = re.split(r"\.\.\.|checkpoint-\d+|\d+|'[^']*'|=\S+|[\w./]*[/_.]\w+|[(),:;]", phrase)
        if not all(part.strip() in known for part in parts):
            missing.append(phrase)
    assert len(phrases) > 30
    assert not missing
