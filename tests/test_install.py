"""`make setup` installs with uv from pip's indexes, and with pip where uv cannot."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import install

ROOT = Path(__file__).parents[1]
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


def test_an_unfinished_environment_is_made_again(tmp_path: Path) -> None:
    """As after an interruption: the interpreter is there, and pip is not."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    rule = tmp_path / "Makefile"
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    rule.write_text(f"{text}\nenvironment:\n\t@$(call venv,.venv)\n", encoding="utf-8")
    make = ["make", "-C", tmp_path, "environment", f"PYTHON={sys.executable}"]
    subprocess.run(make, check=True, capture_output=True)
    subprocess.run([tmp_path / ".venv" / "bin" / "python", "-m", "pip", "--version"], check=True, capture_output=True)
    (tmp_path / ".venv" / "kept").touch()
    subprocess.run(make, check=True, capture_output=True)
    assert (tmp_path / ".venv" / "kept").exists()


@pytest.mark.parametrize("made", [False, True], ids=["no environment", "an environment of it"])
def test_an_old_python_is_told_before_anything_is_installed(tmp_path: Path, made: bool) -> None:
    old = tmp_path / "old"
    old.write_text(
        '#!/bin/sh\nshift\nexec "$REAL" -c "import sys; sys.version_info = (3, 10, 1); $@"\n', encoding="utf-8"
    )
    old.chmod(0o755)
    if made:
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "python").symlink_to(old)
    make = ["make", "-f", ROOT / "Makefile", "-C", tmp_path, "setup", f"PYTHON={old}"]
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    done = subprocess.run(make, env=os.environ | {"REAL": sys.executable}, capture_output=True, text=True)
    told = "Python 3.10 is too old: TheWorld needs 3.11 or newer. Run: make setup PYTHON=python3.12\n"
    assert told in done.stderr
    assert done.returncode
    assert (tmp_path / ".venv").exists() == made
