"""Runs a script as `python script arguments` does, in the process of its test: torch is imported once."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_script(monkeypatch: pytest.MonkeyPatch, path: str, *arguments: str, code: int = 0) -> None:
    """Run the script at `path` in the repository, from its root; fails where it ends with another `code`."""
    ended = None
    with monkeypatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [path, *arguments])
        patch.syspath_prepend((ROOT / path).parent)
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as error:
            ended = error.code
    assert (ended or 0) == code, [path, *arguments]
