"""Rows of JSON lines by their place, without the file in memory."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from theworld.data import text_rows
from theworld.data.text_rows import TextFile, TextRows


def test_every_row_is_one_seek_away(tmp_path: Path) -> None:
    rows = [{"id": number, "text": "ü\u2028\n" * number} for number in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    read = TextRows.scan([TextFile.of(tmp_path / "a.jsonl")])  # the last line has no end
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
    read = TextRows([TextFile.of(file) for file in files], [np.array([0, 2]), np.array([0, 4, 6])])
    assert list(read) == [1, 22, 333, 4, 5]


ROWS = [{"a": "ü\u2028\n" * (number % 40), "b": [1, {"x": number}, None, 2.5, True]} for number in range(300)]


@pytest.mark.parametrize("chunk", [7, 64, 2**16])
@pytest.mark.parametrize("escaped", [False, True])
def test_json_in_every_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, escaped: bool) -> None:
    monkeypatch.setattr(text_rows, "CHUNK", chunk)
    lines = [json.dumps(row, ensure_ascii=escaped) for row in ROWS]
    array = json.dumps(ROWS, ensure_ascii=escaped)
    indented = json.dumps(ROWS, ensure_ascii=escaped, indent=2)
    for text in (
        "\n".join(lines),
        "\r\n\r\n".join(lines) + "\n \n",
        " ".join(lines),
        array,
        indented,
        "\ufeff" + array,
    ):
        path = tmp_path / "a.json"
        path.write_text(text, encoding="utf-8", newline="")
        assert [row for _, row in TextFile.of(path).rows()] == list(TextRows.scan([TextFile.of(path)])) == ROWS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}\n\n{"a":', "3: not JSON"),
        ('{"a": 1}\n{"a": "x\n{"a": 2}\n', "2: not JSON"),
        ('{"a": 1}}', "1: not JSON"),
        ('[{"a": 1}', "1: not JSON .cut off"),
        ('[{"a": 1},\n', "2: not JSON"),
        ('[{"a": 1}] {"a": 2}', "more text after the array"),
        ('[{"a": 1} {"a": 2}]', "expected ',' or ']'"),
        ("[" * 99_999, "not JSON"),
        ("1" * 9999, "not JSON"),
        ('{"a": 1}\n{"b": [{"a": 1, "c": 2, "a": 3}]}', "2: .*the key 'a' is repeated in an object; remove one"),
        ('[\n{"a": 1},\n{"b": 1, "b": 1}]', "3: .*the key 'b' is repeated"),
    ],
)
def test_broken_json_is_named_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"a\.json, line .*{reason}"):
        TextRows.scan([TextFile.of(tmp_path / "a.json")])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("question,answer\nWhat colour?,red,note\n", r"a\.csv, line 2: 3 fields, but the header has 2"),
        ("question,answer\n\nWho?\n", r"a\.csv, line 3: 1 fields, but the header has 2"),
        ('question,answer\nq,a\nWhat,"red\nWho,blue\n', r"a\.csv, line 3: .* close every quote"),
        ('question,answer\nWhat,"red\nWho,blue\nWhere,"left\n', r"a\.csv, line 2: .* close every quote"),
        ('question,answer\nWhat,"red" one\n', r"a\.csv, line 2: .* close every quote"),
        ("question;answer\nq;1,5\n", r"a\.csv: one column 'question;answer'"),
        ("a,b,a\n1,2,3\n", "a column is repeated in the header a, b, a"),
    ],
)
def test_a_row_that_does_not_fit_its_header_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ValueError, match=reason):
        TextRows.scan([TextFile.of(tmp_path / "a.csv")])
    with pytest.raises(ValueError, match=reason):
        list(TextFile.of(tmp_path / "a.csv").rows())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str, name: str) -> None:
    (tmp_path / name).write_text('[{"a": "é"}]' if name == "a.json" else "a,b\né,1\n", encoding=encoding)
    with pytest.raises(ValueError, match=rf"{name}: .*UTF-.*iconv -f .* -t utf-8"):
        TextRows.scan([TextFile.of(tmp_path / name)])


def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' * 10, encoding="utf-8")
    rows = TextRows.scan([TextFile.of(path)])
    path.write_text('{"a": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.jsonl: it changed while it was read"):
        rows[9]
