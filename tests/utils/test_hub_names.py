"""A name that could be a path or a Hub id."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.hub_server import Hub
from theworld.utils.hub import Source, resolve


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


def test_offline_is_told_from_a_hub_that_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:1"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between its attempts
    with pytest.raises(OSError, match="and the Hub cannot be reached or gave an error; check the name and the"):
        Source("owner/model").pinned("config.json")
    offline = "and offline mode is on; check the name, or unset HF_HUB_OFFLINE or local_files_only"
    with pytest.raises(OSError, match=offline):
        Source("owner/model", hub={"local_files_only": True}).pinned("config.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=offline):
        Source("owner/model").pinned("config.json")
