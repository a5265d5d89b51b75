"""Real benchmark files, which are not part of the project."""

import os
from pathlib import Path

import pytest


def reference_data(name: str) -> Path:
    """`name` in the folder that THEWORLD_REFERENCE_DATA names; the test is skipped where there is none."""
    folder = os.environ.get("THEWORLD_REFERENCE_DATA")
    if not folder or not (Path(folder) / name).exists():
        pytest.skip(f"THEWORLD_REFERENCE_DATA={folder!r} holds no {name}: real benchmark files are not shipped")
    return Path(folder) / name
