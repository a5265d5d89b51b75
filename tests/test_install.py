"""`make setup` installs with uv from pip's indexes, and with pip where uv cannot."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import install

PIP_CONF = """
[global]
index-url = https://index.example/simple
extra-index-url =
    https://one.example/simple
    https://two.example/simple
find-links = /wheels
[install]
find-links = /wheels /more
[user]
index-url = https://ignored.example/simple
"""


def test_uv_takes_the_indexes_of_pip(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(PIP_CONF, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_INDEX_URL": "https://own.example/simple"}
    listed = subprocess.run([*install.PIP, "config", "list"], env=environment, capture_output=True, text=True)
    found = install.uv_environment(install.pip_settings(listed.stdout))
    assert {name: found[name] for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS")} == {
        "UV_DEFAULT_INDEX": "https://own.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
    }


@pytest.mark.parametrize(
    ("listed", "failing", "code", "calls"),
    [
        ("", (), 0, ["pip config", "pip install", "uv pip"]),
        ("", ("uv pip",), 0, ["pip config", "pip install", "uv pip", "pip install"]),
        ("", ("uv pip", "pip install"), 1, ["pip config", "pip install", "pip install"]),
        ("global.no-index='true'", (), 0, ["pip config", "pip install"]),
    ],
)
def test_pip_installs_where_uv_cannot(
    monkeypatch: pytest.MonkeyPatch, listed: str, failing: tuple[str, ...], code: int, calls: list[str]
) -> None:
    ran: list[str] = []

    def runs(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        words = " ".join(word for word in command[2:] if not word.startswith("-"))
        ran.append(" ".join(words.split()[:2]))
        return subprocess.CompletedProcess(command, int(ran[-1] in failing), listed)

    monkeypatch.setattr(install.subprocess, "run", runs)
    monkeypatch.setattr(sys, "argv", ["install.py", "-e", "."])
    assert install.main() == code
    assert ran == calls
