"""Error lines and log lines hold no token."""

import logging
import subprocess
import sys

import pytest

from theworld.cli.main import main
from theworld.utils import errors
from theworld.utils.errors import brief, keep_secret, one_line, without_tokens
from theworld.utils.logging import configure_logging, logger

TOKEN = "hf_" + "s" * 34


def test_tokens_are_cut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert one_line(OSError(f"401: the token {TOKEN}\nis not valid")) == "401: the token hf_*** is not valid"
    assert one_line(KeyError(f"no key {TOKEN!r}")) == "no key 'hf_***'"
    monkeypatch.setenv("HF_TOKEN", "from-the-environment")
    monkeypatch.setattr(errors, "_secrets", set[str]())
    keep_secret("from-a-config")
    assert without_tokens("from-the-environment from-a-config") == "hf_*** hf_***"
    assert without_tokens("data/sources/hf_dataset.py") == "data/sources/hf_dataset.py"


def test_log_lines_hold_none(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(logging.INFO)
    logger.warning("%s: the push failed (%s)", "run", f"403 {TOKEN}")
    assert capsys.readouterr().err == "run: the push failed (403 hf_***)\n"


@pytest.mark.parametrize("key", ["batch_size", "model_name", "dataset_name", "nothing", "resume_from"])
def test_a_token_under_a_wrong_key_is_not_printed(key: str, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(f'{{"{key}": "{TOKEN}", "output_dir": "{tmp_path}"}}', encoding="utf-8")
    assert main(["train", "--config", str(tmp_path / "config.json")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("theworld: error: ")
    assert TOKEN not in printed.err + printed.out


def test_a_traceback_holds_no_token(tmp_path) -> None:
    (tmp_path / "config.json").write_text(f'{{"batch_size": "{TOKEN}"}}', encoding="utf-8")
    command = [sys.executable, "-m", "theworld.cli.main", "--debug", "train", "--config", str(tmp_path / "config.json")]
    done = subprocess.run([*command, "--resume_from", "from-a-shell"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "TheWorldError: batch_size='hf_***'" in done.stderr
    assert TOKEN not in done.stderr
    command = [sys.executable, "-m", "theworld.cli.main", "--debug", "ask", f"{TOKEN}.png", "?"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "hf_***.png" in done.stderr
    assert TOKEN not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["env", TOKEN], [TOKEN], ["env", f"--{TOKEN}"], ["ask", "a.png", "?", "--max_new_tokens", TOKEN]]
)
def test_a_token_in_the_arguments_is_not_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    printed = capsys.readouterr()
    assert "hf_***" in printed.err
    assert TOKEN not in printed.err


def test_a_long_value_is_shortened() -> None:
    assert brief("x" * 200) == "x" * 200
    assert brief("x" * 1000) == "x" * 200 + "... (1000 characters)"
    assert TOKEN[:20] not in brief("x" * 180 + TOKEN)
