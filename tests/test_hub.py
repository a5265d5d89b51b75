"""The Hub on loopback speaks with the real client, and a model that was pushed to it comes back whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import Hub
from tests.scripts import run_script
from theworld import TheWorld
from theworld.constants import NANO
from theworld.nano.examples import EXAMPLES, load_example
from theworld.training.resume import locate

ROOT = Path(__file__).parents[1]
REPO = "tester/model"


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(token=hub.token)


def push(api: HfApi, files: dict[str, bytes], message: str = "push") -> None:
    api.create_repo(REPO, exist_ok=True)
    api.create_commit(
        REPO, [CommitOperationAdd(path, content) for path, content in files.items()], commit_message=message
    )


# ------------------------------------------------------------------------------------------------- the protocol


def test_what_is_pushed_is_what_is_downloaded(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 999, "last/optimizer.pt": b"o" * 10}
    push(api, files)
    folder = Path(snapshot_download(REPO))
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        **files,
        ".gitattributes": hub.repositories[REPO].commits[-1].files[".gitattributes"].content,
    }
    assert hub.repositories[REPO].files == files
    assert {file.path for file in api.list_repo_tree(REPO, recursive=True)} == {*files, ".gitattributes"}
    assert {entry.path for entry in api.list_repo_tree(REPO)} == {
        "last",
        "config.json",
        "model.safetensors",
        ".gitattributes",
    }
    assert [entry.path for entry in api.list_repo_tree(REPO, "last")] == ["last/optimizer.pt"]


def test_an_unchanged_large_file_is_not_sent_again(hub: Hub, api: HfApi) -> None:
    for number in range(2):
        push(api, {"model.safetensors": b"w" * 1000, "config.json": b"%d" % number})
    assert len([request for request in hub.requests if request.startswith("PUT")]) == 1
    assert len(hub.repositories[REPO].commits) == 3  # the Hub's own, and one a push


def test_history_and_revisions(hub: Hub, api: HfApi) -> None:
    push(api, {"a.json": b"1"}, "first")
    push(api, {"a.json": b"2"}, "second")
    titles = {commit.title: commit.commit_id for commit in api.list_repo_commits(REPO)}
    assert list(titles) == ["second", "first", "initial commit"]
    assert Path(hf_hub_download(REPO, "a.json", revision=titles["first"])).read_bytes() == b"1"
    assert Path(hf_hub_download(REPO, "a.json")).read_bytes() == b"2"
    assert api.list_repo_refs(REPO).branches[0].target_commit == titles["second"]
    api.create_commit(REPO, [CommitOperationDelete("a.json")], commit_message="gone")
    assert not hub.repositories[REPO].files
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "a.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "a.json", revision="other")


def test_who_may_do_what(hub: Hub, api: HfApi) -> None:
    api.create_repo(REPO, private=True)
    assert api.repo_info(REPO).private
    with pytest.raises(HfHubHTTPError) as taken:
        api.create_repo(REPO)
    assert taken.value.response.status_code == 409
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    for token, refused in ((hub.reader, 403), ("hf_" + "x" * 34, 401), (False, 401)):
        with pytest.raises(HfHubHTTPError) as error:
            HfApi(token=token).create_repo("tester/other")
        assert error.value.response.status_code == refused
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("somebody/model")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).repo_info(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("tester/missing")
    assert HfApi(token=hub.reader).repo_info(REPO).id == REPO
    assert api.whoami()["name"] == "tester"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_" + "x" * 34).whoami()


def test_a_gated_repository_shows_its_files_to_those_who_have_access(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    repository = hub.publish("owner/gated", tmp_path, gated=True)
    assert "config.json" in {file.path for file in api.list_repo_tree("owner/gated")}
    for token, status in ((hub.token, 403), (False, 401)):
        with pytest.raises(GatedRepoError, match=f"{status} Client Error"):
            hf_hub_download("owner/gated", "config.json", token=token)
        with pytest.raises(GatedRepoError):
            api.auth_check("owner/gated", token=token)
    repository.granted.add(hub.token)
    api.auth_check("owner/gated")
    assert Path(hf_hub_download("owner/gated", "config.json", token=hub.token)).read_text(encoding="utf-8") == "{}"


def test_an_upload_that_breaks_is_sent_again(hub: Hub, api: HfApi) -> None:
    hub.cuts["upload"] = 1
    push(api, {"model.safetensors": b"w" * 3_000_000})
    assert hub.repositories[REPO].files == {"model.safetensors": b"w" * 3_000_000}
    assert not any(hub.cuts.values())


def test_a_push_that_breaks_shows_nothing(hub: Hub, api: HfApi) -> None:
    hub.cuts["commit"] = 1
    with pytest.raises(Exception, match="disconnected"):
        push(api, {"model.safetensors": b"w" * 1000, "config.json": b"{}"})
    assert len(hub.repositories[REPO].commits) == 1
    assert not hub.repositories[REPO].files


def test_a_download_that_breaks_goes_on_where_it_was(hub: Hub, api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # what the client has to lose at most
    content = bytes(range(256)) * 8000
    push(api, {"model.safetensors": content})
    hub.cuts["download"] = 1
    assert Path(hf_hub_download(REPO, "model.safetensors")).read_bytes() == content
    assert [request for request in hub.requests if request.endswith("Range")]
    assert not any(hub.cuts.values())


# ------------------------------------------------------------------------------------------ models of the package


@pytest.fixture
def pushed(hub: Hub, api: HfApi, tmp_path: Path) -> TheWorld:
    """A model in the root of a private repository, and another state of it in a sub-folder."""
    api.create_repo(REPO, private=True)
    model = TheWorld.from_pretrained(NANO)
    for folder, shift in (("last-checkpoint", 0.5), ("", 0.1)):
        with torch.no_grad():
            model.model.world_markers.weight += shift
        model.save_pretrained(tmp_path / "checkpoint")
        api.upload_folder(repo_id=REPO, folder_path=tmp_path / "checkpoint", path_in_repo=folder)
    return model


def test_a_model_and_a_checkpoint_come_back(hub: Hub, pushed: TheWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for loaded in (TheWorld.from_pretrained(REPO), TheWorld.from_checkpoint_hub(REPO)):
        assert torch.equal(loaded.model.world_markers.weight, pushed.model.world_markers.weight)
    loaded = TheWorld.from_checkpoint_hub(REPO, "last-checkpoint/model.safetensors")
    assert torch.equal(loaded.model.world_markers.weight + 0.1, pushed.model.world_markers.weight)
    requests = len(hub.requests)
    TheWorld.from_pretrained(REPO, local_files_only=True)
    assert len(hub.requests) == requests


def test_what_cannot_be_loaded_is_said(hub: Hub, pushed: TheWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=REPO):  # private, and no token
        TheWorld.from_pretrained(REPO)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with pytest.raises(OSError, match="tester/missing"):
        TheWorld.from_pretrained("tester/missing")
    with pytest.raises(OSError, match="checkpoint-7"):
        TheWorld.from_checkpoint_hub(REPO, "checkpoint-7")


def test_a_model_whose_download_breaks_off_is_not_half_there(
    hub: Hub, pushed: TheWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the client's own attempts
    hub.cuts["download"] = 1000
    with pytest.raises(OSError, match=REPO):
        TheWorld.from_pretrained(REPO)
    hub.cuts["download"] = 0
    loaded = TheWorld.from_pretrained(REPO)
    assert torch.equal(loaded.model.world_markers.weight, pushed.model.world_markers.weight)


def test_a_run_is_told_that_its_checkpoint_cannot_be_read(
    hub: Hub, api: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(api, {"last-checkpoint/config.json": b"{}", "last-checkpoint/model.safetensors": b"w" * 100})
    assert locate(REPO).name == "last-checkpoint"
    push(api, {"last-checkpoint/model.safetensors": b"v" * 100})
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.cuts["download"] = 1000
    with pytest.raises(FileNotFoundError, match=REPO):
        locate(REPO)


def test_the_example_loads_for_those_who_may_read(
    hub: Hub, pushed: TheWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here in one process; `test_smoke` runs it in a process that has never seen the model."""
    run_script(monkeypatch, "examples/load_from_hub.py", REPO, code=2)
    assert REPO in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", hub.reader)
    run_script(monkeypatch, "examples/load_from_hub.py", REPO)
    example = load_example(EXAMPLES[0])
    assert f"answer        {pushed.ask(example.image, example.question)}" in capsys.readouterr().out


def test_the_example_needs_no_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_script(monkeypatch, "examples/load_from_hub.py")
    assert load_example(EXAMPLES[0]).question in capsys.readouterr().out


def test_smoke() -> None:
    """`make smoke-test` runs this script."""
    command = [sys.executable, "-m", "scripts.smoke_test"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-2: pushed to http://127.0.0.1" in done.stderr
    assert "answer        " in done.stdout
    assert "smoke test    passed in" in done.stdout
