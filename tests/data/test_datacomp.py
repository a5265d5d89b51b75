"""DataComp: pictures come from a server; a dead link is a skipped row and nothing takes its place."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from PIL import Image

from theworld.data.download import ImageStore
from theworld.data.images import open_image
from theworld.data.open_source import open_source
from theworld.data.schema import Example, Skipped, SourceSettings
from theworld.data.sources.datacomp import PROMPTS, DataCompReader
from theworld.data.sources.hf_dataset import StreamedRows
from theworld.data.sources.records import IndexedRows

COUNT = 12


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """Rows whose pictures are on a server, but for the third, which is gone, and the fifth, which has changed."""
    web = tmp_path / "web"
    web.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(web)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    rows = []
    for i in range(COUNT):
        Image.new("RGB", (20, 20), (i, 0, 0)).save(web / f"{i}.png")
        digest = hashlib.sha256((web / f"{i}.png").read_bytes()).hexdigest()
        url = f"http://127.0.0.1:{server.server_port}/{i}.png"
        rows.append(
            {"uid": f"{i:032x}", "url": url, "text": f" caption {i}\n", "sha256": digest, "face_bboxes": [[0.1]]}
        )
    (web / "2.png").unlink()
    Image.new("RGB", (20, 20), "white").save(web / "4.png")
    yield rows
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, rows: list[dict[str, Any]]) -> SourceSettings:
    Dataset.from_list(rows).to_parquet(tmp_path / "metadata.parquet")
    return SourceSettings(path=str(tmp_path / "metadata.parquet"), image_folder=tmp_path / "cache")


def with_loopback(source: IndexedRows | StreamedRows) -> list[Example | Skipped]:
    assert isinstance(source.reader, DataCompReader)
    source.reader.store.allow_private = True
    return list(source)


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_come_with_their_own_pictures_or_not_at_all(settings: SourceSettings, streaming: bool) -> None:
    source = open_source("datacomp", SourceSettings(**{**vars(settings), "streaming": streaming}))
    read = with_loopback(source)
    assert [row.id for row in read] == [f"{i:032x}" for i in range(COUNT)]
    causes = {i: row.cause for i, row in enumerate(read) if isinstance(row, Skipped)}
    assert causes == {2: "http_404", 4: "sha256"}
    for i, row in enumerate(read):
        if isinstance(row, Example):
            assert row.messages[1].content == f"caption {i}"
            assert open_image(row.images[0], settings.image_folder).getpixel((0, 0)) == (i, 0, 0)
            assert row.metadata["face_bboxes"] == [[0.1]]


def test_loopback_addresses_are_not_asked_by_default(settings: SourceSettings) -> None:
    row = open_source("datacomp", settings)[0]  # type: ignore[index]
    assert isinstance(row, Skipped)
    assert row.cause == "private_address"


def test_prompts_vary_by_the_id_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(tmp_path)
    monkeypatch.setattr(store, "fetch", lambda *_: tmp_path / "a.png")

    def prompts(**settings: str) -> list[str]:
        reader = DataCompReader(store=store, **settings)
        rows = [reader.read({"uid": f"{i:032x}", "url": "u", "text": "t"}, "") for i in range(40)]
        return [row.messages[0].content for row in rows if isinstance(row, Example)]

    assert prompts() == prompts()
    assert set(prompts()) == set(PROMPTS)
    assert set(prompts(question_template="Caption this.")) == {"Caption this."}


@pytest.mark.parametrize("row", [{"url": None, "text": "t"}, {"url": "u", "text": " "}, {"url": "u"}, {}])
def test_a_row_without_url_or_text_is_skipped(tmp_path: Path, row: dict[str, Any]) -> None:
    read = DataCompReader(store=ImageStore(tmp_path)).read(row, "7")
    assert isinstance(read, Skipped)
    assert (read.id, read.cause) == ("7", "bad_row")


def test_missing_columns_are_listed(tmp_path: Path) -> None:
    Dataset.from_list([{"url": "u", "caption": "t"}]).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no column 'uid', 'text' in the data, which has url, caption"):
        open_source("datacomp", SourceSettings(path=str(tmp_path / "x.parquet")))
    with pytest.raises(ValueError, match="mlfoundations/datacomp_small"):
        open_source("datacomp", SourceSettings())


def test_a_template_names_columns(settings: SourceSettings) -> None:
    with pytest.raises(ValueError, match="no column 'caption'"):
        open_source("datacomp", SourceSettings(path=settings.path, question_template="{caption}"))


def test_pictures_go_to_the_users_cache_when_nobody_says(
    settings: SourceSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("THEWORLD_CACHE", raising=False)
    source: Any = open_source("datacomp", SourceSettings(path=settings.path))
    assert source.reader.store.cache_folder == tmp_path / "theworld" / "images"
