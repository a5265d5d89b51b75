import json
import os
from pathlib import Path

import pytest

from theworld.utils import io
from theworld.utils.errors import FileError, one_line
from theworld.utils.folders import made_whole


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    io.write_json(path, {"x": 1})
    io.write_json(path, {"x": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"x": "é"}
    assert [file.name for file in path.parent.iterdir()] == ["b.json"]


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    io.write_text(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        io.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_name_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    folder, occupied = tmp_path / "there", tmp_path / "made"
    (folder / "file").mkdir(parents=True)
    occupied.mkdir()
    (occupied / "file").touch()
    with pytest.raises(OSError) as replaced:  # noqa: PT011  # the whole line is compared
        io.write_text(folder, "a folder of this name exists")
    assert one_line(replaced.value) == f"{folder}: Is a directory; check the path and its permissions"

    def make() -> None:
        with made_whole(occupied):
            pass

    with pytest.raises(OSError) as made:  # noqa: PT011
        make()
    assert one_line(made.value) == f"{occupied}: Directory not empty"
    with pytest.raises(FileError, match="not of the system"), io.naming_path(folder):
        raise FileError("not of the system")


def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    io.write_text(tmp_path / "ours", "")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        io.write_json(tmp_path / "x.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_jsonl_round_trip_and_append(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "rows.jsonl"
    io.append_jsonl(path, [{"id": 0}, {"id": 1}])
    io.append_jsonl(path, [{"id": 2}])
    assert [row["id"] for row in io.read_jsonl(path)] == [0, 1, 2]


def test_unfinished_line_is_left_out_and_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    io.append_jsonl(path, [{"id": 0}])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": 1, "text": "cut o')
    assert [row["id"] for row in io.read_jsonl(path)] == [0]
    io.append_jsonl(path, [{"id": 1}])
    assert [row["id"] for row in io.read_jsonl(path)] == [0, 1]


@pytest.mark.parametrize("line", [b"no json", b"[1]", b'{"id": "\xff"}', b"[" * 100_000, b"9" * 5000])
def test_bad_line_names_file_and_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": 0}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2"):
        list(io.read_jsonl(path))
