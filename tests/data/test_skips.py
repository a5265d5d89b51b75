"""The list of skipped rows: counted once, kept on disk, and a stop past the budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from theworld.data.schema import Skipped
from theworld.data.skips import MINIMUM_SEEN, SkipLog
from theworld.utils.io import read_jsonl


def bad(*names: str, cause: str = "missing") -> list[Skipped]:
    return [Skipped(name, cause, f"{name} is {cause}") for name in names]


def test_rows_are_listed_once_and_counted_by_cause(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", budget=0.5, total=100)
    log.record(bad("a", "b"))
    log.record(bad("b", "c", cause="truncated"))
    log.record([])
    assert list(read_jsonl(tmp_path / "skipped.jsonl")) == [
        {"id": "a", "cause": "missing", "detail": "a is missing"},
        {"id": "b", "cause": "missing", "detail": "b is missing"},
        {"id": "c", "cause": "truncated", "detail": "c is truncated"},
    ]
    assert len(log) == 3
    assert log.summary().splitlines() == ["missing 2 (a, b)", "truncated 1 (c)"]


def test_nothing_skipped_leaves_no_file(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", budget=0.0, total=0)
    log.record([])
    assert log.summary() == ""
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    SkipLog(path, budget=0.5, total=4).record(bad("a", "b"))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": "c", "cau')  # killed while writing
    log = SkipLog(path, budget=0.5, total=4)
    log.record(bad("a", "b"))
    assert len(log) == 2
    with pytest.raises(ValueError, match="3 of 4 rows"):
        log.record(bad("c"))
    assert [row["id"] for row in read_jsonl(path)] == ["a", "b", "c"]


@pytest.mark.parametrize("line", ['{"a": 1}', '{"id": [1], "cause": "x", "detail": "y"}', '{"id": "a", "cause": 2}'])
def test_a_list_of_other_rows_is_one_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "skipped.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"skipped\.jsonl: expected the texts id, cause and detail, got .*; remove"):
        SkipLog(path, budget=0.5, total=4)


def test_past_the_budget_the_error_says_all_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    log = SkipLog(path, budget=0.05, total=100)
    log.record(bad(*"abcde"))
    with pytest.raises(ValueError, match="skip_budget") as error:
        log.record([*bad("f"), *bad("g", cause="timeout")])
    assert str(error.value) == (
        "7 of 100 rows cannot be used, more than skip_budget=0.05 allows: missing 6 (a, b, c, d, e, ...); "
        f"timeout 1 (g); last skipped row: g: g is timeout. See {path}. Correct them and remove that list, or raise "
        "skip_budget"
    )
    assert len(list(read_jsonl(path))) == 7


def test_a_stream_is_judged_by_the_rows_it_gave(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", budget=0.05)
    log.seen(MINIMUM_SEEN - 1)
    log.record(bad(*(f"early-{i}" for i in range(20))))  # too few rows have come to say anything
    log.seen(1000)
    log.record(bad("one"))
    with pytest.raises(ValueError, match=f"61 of {MINIMUM_SEEN + 999} rows"):
        log.record(bad(*(f"late-{i}" for i in range(40))))


def test_a_resumed_stream_starts_its_share_anew(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    before = SkipLog(path, budget=0.05)
    before.seen(10_000)
    before.record(bad(*(str(i) for i in range(100))))
    log = SkipLog(path, budget=0.05)
    log.seen(300)
    log.record(bad("new"))
    assert len(log) == 101


@pytest.mark.parametrize("budget", [-0.1, 1.5])
def test_a_budget_is_a_share(tmp_path: Path, budget: float) -> None:
    with pytest.raises(ValueError, match=f"skip_budget={budget}"):
        SkipLog(tmp_path / "skipped.jsonl", budget)


def test_a_budget_of_all_still_leaves_something_to_learn(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", budget=1, total=3)
    log.record(bad("a", "b"))
    with pytest.raises(ValueError, match=r"^No usable rows: all 3 were skipped\. See .*skipped\.jsonl\.$"):
        log.record(bad("c"))


def test_rows_that_share_an_id_all_count(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", budget=0.05, total=100)
    for _ in range(5):
        log.seen(10)
        log.record(bad("same"))
    log.seen(10)
    with pytest.raises(ValueError, match="6 of 100 rows cannot be used"):
        log.record(bad("same"))
    assert len(list(read_jsonl(tmp_path / "skipped.jsonl"))) == 1


def test_a_row_that_comes_in_every_epoch_counts_once(tmp_path: Path) -> None:
    for start in range(2):  # the second time it resumes within an epoch
        log = SkipLog(tmp_path / "skipped.jsonl", budget=0.05, total=20)
        for _ in range(5 - start):
            log.seen(1)
            log.record(bad("one"))
            log.seen(19 if start == 0 else 9)
    assert len(log) == 1
