"""Runs a script as `python script arguments` does, in the process of its test: torch is imported once."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_script(monkeypatch: pytest.MonkeyPatch, path: str, *arguments: str) -> None:
    """Run the script at `path` in the repository, from the repository's root; fails where it ends with an error."""
    with monkeypatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [path, *arguments])
        patch.syspath_prepend((ROOT / path).parent)
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as ended:
            assert not ended.code, [path, *arguments]  # noqa: PT017
