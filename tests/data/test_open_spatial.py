"""The array of 31.9 GB, at sizes for tests: indexed in one pass, in bounded memory, whole or not at all."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from theworld.data.open_spatial import MANIFEST, OFFSETS, index_open_spatial, read_indexed

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_open_spatial.py"


def row(number: int, padding: int = 0) -> dict[str, Any]:
    return {
        "filename": f"{number:016x}",
        "conversations": [
            {"from": "human", "value": "<image>\nIs <mask> <depth> wider than <mask> <depth>?"},
            {"from": "gpt", "value": "In fact, Region [0] might be narrower than Region [1]. 😀 ü"},
        ],
        "bbox": [[10.25, 20.0, 110, 220.0], [300.0, 40.0, 420.0, 260.0]],
        "rle": [{"size": [768, 1024], "counts": "x" * padding}] * 2,
    }


def write(path: Path, count: int, padding: int = 0, indent: int | None = None) -> list[dict[str, Any]]:
    rows = [row(number, padding) for number in range(count)]
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    return rows


@pytest.mark.parametrize("indent", [None, 2])
def test_every_row_is_read_by_its_place(tmp_path: Path, indent: int | None) -> None:
    rows = write(tmp_path / "all.json", 10, indent=indent)
    assert index_open_spatial(tmp_path / "all.json", tmp_path / "out") == 10
    read = read_indexed(tmp_path / "out")
    assert list(read) == rows
    assert read[7] == rows[7]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.json", "out"]
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) < 1000


def test_only_rows_with_their_picture(tmp_path: Path) -> None:
    rows = write(tmp_path / "all.json", 6)
    (tmp_path / "pictures").mkdir()
    for number in (1, 4):
        (tmp_path / "pictures" / f"{number:016x}.jpg").touch()
    assert index_open_spatial(tmp_path / "all.json", tmp_path / "out", tmp_path / "pictures") == 2
    assert list(read_indexed(tmp_path / "out")) == [rows[1], rows[4]]


def test_an_array_that_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "all.json", 10)
    data = (tmp_path / "all.json").read_bytes()
    for size in (len(data) - 1, len(data) // 2):
        (tmp_path / "cut.json").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut\.json: cut off or no JSON after \d+ rows"):
            index_open_spatial(tmp_path / "cut.json", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.json", "cut.json"]


@pytest.mark.parametrize("text", ["{}", "[]", "version https://git-lfs.github.com/spec/v1\n", "", '{"rows": [1]}'])
def test_what_is_no_array_of_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "all.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"all\.json"):
        index_open_spatial(tmp_path / "all.json", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["all.json"]


def test_folders_that_are_there_or_not(tmp_path: Path) -> None:
    write(tmp_path / "all.json", 1)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        index_open_spatial(tmp_path / "none.json", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="pictures"):
        index_open_spatial(tmp_path / "all.json", tmp_path / "out", tmp_path / "pictures")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out: already exists"):
        index_open_spatial(tmp_path / "all.json", tmp_path / "out")


def test_an_index_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "all.json", 6)
    index_open_spatial(tmp_path / "all.json", tmp_path / "out")
    whole = (tmp_path / "all.json").read_bytes()
    (tmp_path / "all.json").write_bytes(whole[:50])
    with pytest.raises(ValueError, match=r"all\.json has changed since it was indexed; index it again"):
        read_indexed(tmp_path / "out")
    (tmp_path / "all.json").unlink()
    with pytest.raises(ValueError, match=r"not a complete index .*all\.json"):
        read_indexed(tmp_path / "out")
    (tmp_path / "all.json").write_bytes(whole)
    assert len(read_indexed(tmp_path / "out")) == 6
    for places in ([[1.5]], [[1]], [1.5], [5, -1], [5, 10**9], ["a"]):
        np.save(tmp_path / "out" / OFFSETS, np.array(places))
        with pytest.raises(ValueError, match="not a complete index"):
            read_indexed(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text(encoding="utf-8"))
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest | {"source": "/dev/zero", "bytes": 0}), "utf-8")
    with pytest.raises(ValueError, match=r"not a complete index|has changed"):
        read_indexed(tmp_path / "out")
    (tmp_path / "out" / OFFSETS).write_bytes(b"")
    with pytest.raises(ValueError, match="not a complete index"):
        read_indexed(tmp_path / "out")
    for text in ("{}", '{"rows": 6, "shards": [6]}'):  # the latter of a version that copied the rows
        (tmp_path / "out" / MANIFEST).write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="not a complete index"):
            read_indexed(tmp_path / "out")


MEASURE = """
import resource, sys
from pathlib import Path
from theworld.data.open_spatial import index_open_spatial, read_indexed
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
folder = Path(sys.argv[1])
index_open_spatial(folder / "small.json", folder / "small")
read_indexed(folder / "small")[0]
before = peak()
index_open_spatial(folder / "large.json", folder / "large")
rows = read_indexed(folder / "large")
rows[len(rows) - 1]
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_array(tmp_path: Path) -> None:
    write(tmp_path / "small.json", 40, padding=16_000)
    large = json.dumps(row(1, padding=16_000))
    with (tmp_path / "large.json").open("w", encoding="utf-8") as file:
        file.write(f"[{large}")
        file.writelines(f", {large}" for _ in range(1_500))
        file.write("]")
    assert (tmp_path / "large.json").stat().st_size > 45e6
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 15, f"{done.stdout.strip()} MB more for 45 MB more"


def test_the_script(tmp_path: Path) -> None:
    write(tmp_path / "all.json", 3)
    command = [sys.executable, str(SCRIPT), str(tmp_path / "all.json"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 rows" in done.stdout
    assert len(read_indexed(tmp_path / "out")) == 3
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert "already exists" in again.stderr
