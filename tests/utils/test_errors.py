"""Error lines and log lines hold no token."""

import logging

import pytest

from theworld.cli.main import main
from theworld.utils import errors
from theworld.utils.errors import keep_secret, one_line, without_tokens
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
