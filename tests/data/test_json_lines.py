"""Rows of JSON lines by their place, without the file in memory."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from theworld.data.json_lines import JsonLines


def test_every_row_is_one_seek_away(tmp_path: Path) -> None:
    rows = [{"id": number, "text": "ü\u2028\n" * number} for number in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    read = JsonLines.scan(tmp_path / "a.jsonl")  # the last line has no end
    assert len(read) == 20
    assert list(read) == rows
    assert [read[i] for i in (7, -1, 0)] == [rows[i] for i in (7, -1, 0)]
    assert read[3:9:2] == rows[3:9:2]
    assert list(pickle.loads(pickle.dumps(read))) == rows
    with pytest.raises(IndexError):
        read[20]


def test_several_files_are_one_sequence(tmp_path: Path) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    files[0].write_text("1\n22\n", encoding="utf-8")
    files[1].write_text("333\n4\n5\n", encoding="utf-8")
    read = JsonLines(files, [np.array([0, 2]), np.array([0, 4, 6])])
    assert list(read) == [1, 22, 333, 4, 5]
    assert [list(read.head(count)) for count in (0, 1, 3, 9)] == [[], [1], [1, 22, 333], [1, 22, 333, 4, 5]]


def test_empty_lines_are_none_and_broken_ones_come_out_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n\n  \n{"a": \n\xff\xfe\n{"a": 2}\n')
    read = JsonLines.scan(tmp_path / "a.jsonl")
    assert read[0] == {"a": 1}
    assert isinstance(read[1], str)
    assert isinstance(read[2], str)
    assert read[3] == {"a": 2}
    assert len(read) == 4
