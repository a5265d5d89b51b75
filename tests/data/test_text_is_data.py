"""Whatever text is written to a file comes back from it, in every format, streamed or not, whatever other rows hold."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from theworld.data.schema import SourceSettings
from theworld.data.sources.files import load_rows
from theworld.data.sources.hf_dataset import wrap
from theworld.data.text_rows import TextFile, TextRows

Rows = list[dict[str, str]]

LOOKS_LIKE = [
    *("true", "True", "null", "None", "NaN", "NA", "nan", "Infinity", "-inf", "007", "2.50", "1e3", "1_000", "-0"),
    *("0x1F", "2024-01-01", "12:30", "a,b", "a;b", "#", "=1+1", "\u00e9", "\U0001f600"),
    *("1 January 2020", '"quoted"', "'q'", "[1, 2]", '{"a": 1}', "[", '{"', "<image>", '"', '""', 'a "b" c', " ", ""),
    *("a\tb", "a\nb", "a\r\nb", "a\rb", "\\n", "\ufeff", "\0", "\u2028"),
]
TEXT = st.one_of(st.sampled_from(LOOKS_LIKE), st.text(max_size=12))
ROWS = st.lists(st.fixed_dictionaries({"question": TEXT, "answer": TEXT}), min_size=1, max_size=3)


def write_table(path: Path, rows: Rows, **options: Any) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)


WRITERS: dict[str, Callable[[Path, Rows], Any]] = {
    "json": lambda path, rows: path.write_text(json.dumps(rows, ensure_ascii=len(rows) < 2), encoding="utf-8"),
    "jsonl": lambda path, rows: path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8"),
    "csv": write_table,
    "tsv": lambda path, rows: write_table(path, rows, delimiter="\t"),
    "parquet": lambda path, rows: Dataset.from_list(rows).to_parquet(path),
}


@pytest.fixture(scope="module")
def examples() -> list[Rows]:
    """The rows of 2,000 files."""
    seen: list[Rows] = []

    @settings(max_examples=2000, derandomize=True, deadline=None, database=None)
    @given(ROWS)
    def collect(rows: Rows) -> None:
        seen.append(rows)

    collect()
    return seen


def test_text_comes_back(examples: list[Rows], tmp_path: Path) -> None:
    assert len(examples) >= 2000
    for number, rows in enumerate(examples):
        for kind in ("json", "jsonl", "csv", "tsv"):
            path = tmp_path / f"{number}.{kind}"  # a new file, because ext4 waits for the disk if one is written over
            WRITERS[kind](path, rows)
            file = TextFile.of(path)
            assert [row for _, row in file.rows()] == rows, kind
            assert list(TextRows.scan([file])) == rows, kind


@pytest.fixture(scope="module")
def many_rows(examples: list[Rows]) -> Rows:
    """The rows of all examples, for the formats that are too slow to write as often."""
    return [row for rows in examples for row in rows]


class AsItStands:
    def read(self, row: Any, fallback_id: str) -> Any:
        return row


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
def test_all_rows_in_one_file(kind: str, streaming: bool, many_rows: Rows, tmp_path: Path) -> None:
    assert len(many_rows) >= 2000
    path = tmp_path / f"rows.{kind}"
    WRITERS[kind](path, many_rows)
    source = wrap(load_rows(SourceSettings(path=str(path), streaming=streaming)), AsItStands())
    read: Iterator[Any] = iter(source) if streaming else (source[i] for i in range(len(many_rows)))  # type: ignore[index,arg-type]
    assert list(read) == many_rows
