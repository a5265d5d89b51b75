"""A name that could be a path or a Hub id."""

from pathlib import Path

import pytest

from theworld.utils.hub import resolve


def test_a_mistyped_path_is_told_before_the_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    assert resolve("runs/frist") == "runs/frist"  # it may be a Hub id
    assert caplog.messages == [
        "runs/frist: no such file or folder here, looking on the Hub; did you mean 'runs/first'?"
    ]


@pytest.mark.parametrize("name", ["runs/first", "google/gemma-3-4b-it", "nano"])
def test_a_folder_and_a_hub_id_are_told_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    resolve(name)
    assert not caplog.messages
