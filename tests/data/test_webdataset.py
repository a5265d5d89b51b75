"""Tar files of images as a stream: from anywhere, shared by processes, under the limits of every image."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from tests.training.runs import tiny_run
from theworld.data.images import open_image
from theworld.data.open_source import open_source
from theworld.data.schema import Example, Skipped, SourceSettings
from theworld.data.sources import webdataset
from theworld.data.sources.webdataset import expand_braces
from theworld.training.precompute import precompute
from theworld.training.run import train


def png(red: int, size: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (red, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def tar_bytes(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def captioned(start: int, count: int = 3) -> dict[str, bytes]:
    return {
        name: data
        for i in range(start, start + count)
        for name, data in ((f"{i:03}.png", png(i)), (f"{i:03}.txt", f" caption {i}\n".encode()))
    }


def opened(path: Any, **settings: Any) -> Any:
    return open_source("webdataset", SourceSettings(path=str(path), **settings))


def load(path: Any, **settings: Any) -> list[Example | Skipped]:
    return list(opened(path, **settings))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for shard in range(4):
        (tmp_path / f"{shard:02}.tar").write_bytes(tar_bytes(captioned(3 * shard)))
    return tmp_path


def test_images_with_captions(shards: Path) -> None:
    rows = load(shards / "{00..03}.tar")
    assert [row.id for row in rows] == [f"{i:03}" for i in range(12)]
    first = rows[0]
    assert isinstance(first, Example)
    assert [message.content for message in first.messages] == ["Describe this image.", "caption 0"]
    assert open_image(first.images[0]).getpixel((0, 0)) == (0, 0, 0)
    assert [row.id for row in load(shards / "*.tar", num_samples=4)] == ["000", "001", "002", "003"]
    asked = load(shards / "{00,03}.tar", question_template="What is {id}?")[3]
    assert isinstance(asked, Example)
    assert asked.messages[0].content == "What is 009?"


def test_any_file_system_of_fsspec(shards: Path) -> None:
    memory = fsspec.filesystem("memory")
    for file in sorted(shards.glob("*.tar")):
        memory.pipe(f"/bucket/{file.name}", file.read_bytes())
    try:
        for pattern in ("memory://bucket/*.tar", "memory://bucket/{00..03}.tar"):
            assert [row.id for row in load(pattern)] == [f"{i:03}" for i in range(12)]
        with pytest.raises(FileNotFoundError, match=r"memory://nowhere/\*.tar: no such tar files"):
            load("memory://nowhere/*.tar")
    finally:
        memory.rm("/bucket", recursive=True)


def test_processes_and_workers_share_the_files(shards: Path) -> None:
    rows = opened(shards / "*.tar")
    for size in (2, 3, 4):
        shares = [[row.id for row in rows.split_by_process(rank, size)] for rank in range(size)]
        assert all(shares)
        assert sorted(id for share in shares for id in share) == [f"{i:03}" for i in range(12)]
    loader = DataLoader(rows, batch_size=None, num_workers=2, collate_fn=lambda row: row.id)
    assert sorted(loader) == [f"{i:03}" for i in range(12)]
    rows = rows.shuffle(0, 100)
    assert [row.id for row in rows] != sorted(row.id for row in rows)


def test_rows_beside_images(tmp_path: Path) -> None:
    fields: dict[str, dict[str, Any]] = {
        "a": {"question": "What?", "answer": "that", "id": "other"},
        "b": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        "c": {"caption": "a ball", "url": "https://example.com"},
    }
    files = {}
    for key, row in fields.items():
        files |= {f"x.y/{key}.jpg": png(1), f"x.y/{key}.json": json.dumps(row).encode()}
    (tmp_path / "a.tar.gz").write_bytes(tar_bytes({**files, "x.y/d.png": png(2), "x.y/d.cls": b"3"}, "w:gz"))
    rows = load(tmp_path / "a.tar.gz")
    assert all(isinstance(row, Example) for row in rows)
    said = {row.id: [message.content for message in row.messages] for row in rows if isinstance(row, Example)}
    expected = {"a": ["What?", "that"], "b": ["Hi", "Ho"], "c": ["Describe this image.", "a ball"], "d": []}
    assert said == {f"x.y/{key}": value for key, value in expected.items()}


def test_what_cannot_be_used_is_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_BYTES", 2000)
    files = {
        "large.png": b"x" * 2001,
        "large.txt": b"a caption",
        "list.png": png(1),
        "list.json": b"[1]",
        "json.png": png(1),
        "json.json": b"{",
        "text.png": png(1),
        "text.txt": b"\xff\xfe",
        "alone.txt": b"no image",
    }
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    causes = {row.id: row.cause for row in load(tmp_path / "a.tar") if isinstance(row, Skipped)}
    bad = {"list": "bad_row", "json": "bad_row", "text": "bad_row"}
    assert causes == {"large": "too_large", **bad, "alone": "missing"}


def test_a_second_image_or_caption_of_a_sample_is_skipped(tmp_path: Path) -> None:
    files = {"a.png": png(1), "a.mask.png": png(2), "a.txt": b"a", **captioned(0, 1), "b.jpg": png(3), "b.txt": b"b"}
    files |= {"b.de.txt": b"c", "c.png": png(4), "c.txt": b"c", "c.json": b'{"caption": "c"}'}
    files |= {"d.png": png(1), "d.json": b'{"caption": "a", "caption": "b"}'}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    rows = {row.id: row for row in load(tmp_path / "a.tar")}
    bad = {row.id: (row.cause, row.detail) for row in rows.values() if isinstance(row, Skipped)}
    assert bad == {
        "a": ("bad_row", "a.mask.png: a second image beside a.png; a sample has one"),
        "b": ("bad_row", "b.de.txt: a second caption beside b.txt; a sample has one"),
        "d": ("bad_row", "d.json: the key 'caption' is repeated in an object; remove one"),
    }
    assert rows.keys() - bad.keys() == {"000", "c"}


@pytest.mark.parametrize("keep", [0, 3000, 5000])
def test_a_damaged_tar_file_is_named(shards: Path, keep: int) -> None:
    path = shards / "01.tar"
    path.write_bytes(path.read_bytes()[:keep] if keep else b"no tar file")
    with pytest.raises(ValueError, match=r"01.tar: damaged .*; download it again"):
        load(shards / "{00..03}.tar")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"01.tar"):
        load(shards / "{00..03}.tar")


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for settings, reason in (({"split": "test"}, "does not use split"), ({"image_folder": tmp_path}, "image_folder")):
        with pytest.raises(ValueError, match=reason):
            load("a.tar", **settings)
    with pytest.raises(ValueError, match="needs train_dataset_path"):
        open_source("webdataset", SourceSettings())


def test_braces() -> None:
    assert expand_braces("a") == ["a"]
    assert expand_braces("{08..10}-{a,b}") == [f"{n}-{x}" for n in ("08", "09", "10") for x in "ab"]


def test_precompute_takes_images_alone_and_training_captions(
    shards: Path, gemma_folder: Path, cosmos_folder: Path
) -> None:
    (shards / "04.tar").write_bytes(tar_bytes({f"alone{i}.png": png(100 + i) for i in range(3)} | {"bad.png": b"no"}))
    config = tiny_run(
        shards, gemma_folder, cosmos_folder, dataset_name="webdataset", train_dataset_path=str(shards / "{00..04}.tar"),
        image_folder=None, latent_cache=str(shards / "latents"), num_workers=1, max_steps=2, skip_budget=0.5,
    )  # fmt: skip
    done = precompute(config)
    assert (done.rows, done.computed, done.skipped, done.skip_causes) == (16, 15, 1, "not_an_image 1 (bad)")
    assert precompute(config).computed == 0
    assert train(config).step == 2


@pytest.mark.parametrize("key", ["image", "images"])
def test_a_row_beside_an_image_never_opens_a_file_of_this_machine(tmp_path: Path, key: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(255))
    row = {"question": "What?", "answer": "that", key: [str(tmp_path / "secret.png")]}
    said = {"role": "user", "content": [{"type": "image", "image": str(tmp_path / "secret.png")}]}
    chat = {"messages": [said, {"role": "assistant", "content": "Ho"}]}
    files = {"a.png": png(7), "a.json": json.dumps(row).encode(), "b.png": png(8), "b.json": json.dumps(chat).encode()}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    row_a, row_b = load(tmp_path / "a.tar")
    assert isinstance(row_a, Example)
    assert [open_image(image).getpixel((0, 0)) for image in row_a.images] == [(7, 0, 0)]
    assert isinstance(row_b, Skipped)
    with pytest.raises(ValueError, match="columns: 'image' cannot be named for tar files"):
        load(tmp_path / "a.tar", columns={"image": "path"})


def test_rows_beside_images_are_told_as_in_other_sources(tmp_path: Path) -> None:
    rows: dict[str, dict[str, Any]] = {
        "a": {"prompt": "What?", "label": "that"},
        "b": {"prompt": "What?", "response": 2, "choices": ["x", "y", "z"]},
        "c": {"prompt": "What?", "response": "that", "gold": "this"},
    }
    files = {}
    for key, row in rows.items():
        files |= {f"{key}.png": png(1), f"{key}.json": json.dumps(row).encode()}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))

    def answers(**settings: Any) -> dict[str, str]:
        found = load(tmp_path / "a.tar", **settings)
        return {row.id: row.messages[1].content if isinstance(row, Example) else row.cause for row in found}

    assert answers() == {"a": "that", "b": "z", "c": "that"}
    assert answers(columns={"answer": "gold"}) == {"a": "bad_row", "b": "bad_row", "c": "this"}


def test_files_of_a_sample_that_do_not_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.png": png(1), "b.png": png(2), "a.txt": b"a", "b.txt": b"b"}))
    with pytest.raises(ValueError, match=r"a\.tar: the files of a do not follow each other; .*tar --sort=name"):
        load(tmp_path / "a.tar")


def test_a_row_nested_too_deep_is_skipped(tmp_path: Path) -> None:
    deep = b'{"answer": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (tmp_path / "a.tar").write_bytes(tar_bytes({"a.png": png(1), "a.json": deep}))
    assert [row.detail for row in load(tmp_path / "a.tar") if isinstance(row, Skipped)] == ["a.json: nested too deep"]


@pytest.mark.parametrize("damage", ["header", "cut", "cut within a file", "no end", "concatenated"])
def test_samples_never_vanish_from_a_damaged_tar_file(shards: Path, damage: str) -> None:
    path = shards / "00.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    data[last.offset + 10] ^= damage == "header"
    ends = {"cut": last.offset, "cut within a file": last.offset + 514, "no end": last.offset + 1024}
    data = data[: ends.get(damage)] + ((shards / "01.tar").read_bytes() if damage == "concatenated" else b"")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"00\.tar: damaged .*; download it again"):
        load(path)


def test_every_sample_of_a_tar_file_is_read_or_counted(tmp_path: Path) -> None:
    files = {"._1.png": b"x", "1.png": png(1), "1.txt": b"c", "2.heic": b"x", "2.txt": b"d", "3.heic": b"x"}
    files |= {"4.avif": b"no", "4.txt": b"e", "in.tar": tar_bytes(captioned(0))}
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link = tarfile.TarInfo("5.png")
        link.type, link.linkname = tarfile.LNKTYPE, "1.png"
        tar.addfile(link)
    causes = {row.id: row.cause if isinstance(row, Skipped) else "" for row in load(tmp_path / "a.tar")}
    assert causes == {"1": "", "2": "missing", "3": "missing", "4": "", "in": "missing", "5": "bad_row"}


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    for pattern in ("{a,b}.tar", "*.tar"):
        with pytest.raises(ValueError, match=r"a\.tar: expected a regular file"):
            load(tmp_path / pattern)
