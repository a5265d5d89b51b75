"""The Hub on loopback speaks with the real client, and a model that was pushed to it comes back whole or not at all."""

from pathlib import Path

import pytest
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
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import Hub

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
