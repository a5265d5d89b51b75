"""Judging at an endpoint on loopback: replies, failures, retries, limits, resuming, and a key that stays secret."""

import json
from pathlib import Path
from typing import Any

import pytest

from theworld.cli.main import main
from theworld.evaluation.judges.judge import JUDGEMENTS, judge_predictions
from theworld.evaluation.judges.settings import JudgeSettings
from theworld.evaluation.store.predictions import Prediction, PredictionFile, read_predictions
from theworld.utils.io import read_jsonl

from .server import Judge, running

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def predictions(count: int = 6, **first: Any) -> list[Prediction]:
    rows = [Prediction(f"q{n}", f"Question {n}?", "red", "red" if n % 2 else "blue", score=n % 2) for n in range(count)]
    return [Prediction(**{**vars(rows[0]), **first}), *rows[1:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One arm of six answers, three of them right; the model was not asked the last item."""
    file = PredictionFile(tmp_path / "vsr" / "world", {"task": "vsr", "arm": "world"})
    file.append([*predictions(), Prediction("q6", "Question 6?", "red", "", failed="missing: no picture")])
    return file.folder


def settings(judge: Judge, **options: Any) -> JudgeSettings:
    return JudgeSettings(judge.url, "some/judge", **{"api_key": KEY, "timeout": 5.0, "retries": 2, **options})


def fair(asked: dict[str, Any], tries: int) -> tuple[int, Any]:
    return 200, json.dumps({"mark": int(asked["response"] == asked["right_answer"])})


def judgements(folder: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(folder / "judges" / "some-judge" / JUDGEMENTS))


def test_judged_beside_the_rules(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with running(fair) as judge:
        summary = judge_predictions(folder, settings(judge))
    counts = {name: summary[name] for name in ("items", "judged", "unreadable", "failed", "not_asked")}
    assert counts == {"items": 7, "judged": 6, "unreadable": 0, "failed": 0, "not_asked": 1}
    assert summary["accuracy"]["estimate"] == 0.5
    assert 0 < summary["accuracy"]["low"] < 0.5 < summary["accuracy"]["high"] < 1
    assert summary["agreement"] == 1.0
    assert all(row["raw"] in ('{"mark": 0}', '{"mark": 1}') for row in judgements(folder))
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert read_predictions(folder)
    request = judge.requests[0]
    assert (request["path"], request["model"], request["temperature"]) == ("/v1/chat/completions", "some/judge", 0.0)
    assert request["response_format"] == {"type": "json_object"}
    assert judge.keys == {f"Bearer {KEY}"}


def test_unreadable_replies_are_counted_apart(folder: Path) -> None:
    def mumbles(asked: dict[str, Any], tries: int) -> tuple[int, Any]:
        return (200, "Region [0] it is. 1\ud800") if asked["question"] == "Question 1?" else fair(asked, tries)

    with running(mumbles) as judge:
        summary = judge_predictions(folder, settings(judge))
        assert (summary["judged"], summary["unreadable"], summary["failed"]) == (5, 1, 0)
        assert summary["accuracy"]["estimate"] == pytest.approx(2 / 5)  # of those that were judged
        (kept,) = [row for row in judgements(folder) if row["unreadable"]]
        assert (kept["id"], kept["raw"], kept["mark"]) == ("q1", "Region [0] it is. 1?", None)
        asked = len(judge.requests)
        assert judge_predictions(folder, settings(judge)) == summary
        assert len(judge.requests) == asked  # it has answered


@pytest.mark.parametrize("status", [429, 500])
def test_a_passing_fault_is_tried_again(folder: Path, status: int) -> None:
    def falters(asked: dict[str, Any], tries: int) -> tuple[int, Any]:
        return (status, {"error": {"message": "later"}}) if tries < 2 else fair(asked, tries)

    with running(falters) as judge:
        summary = judge_predictions(folder, settings(judge))
    assert (summary["judged"], summary["failed"]) == (6, 0)
    assert len(judge.requests) == 18


def test_a_lasting_fault_is_counted_and_asked_by_the_next_run(folder: Path) -> None:
    def broken(asked: dict[str, Any], tries: int) -> tuple[int, Any]:
        if asked["question"] == "Question 3?":
            return 503, {"error": {"message": "no"}}
        return (400, {"error": {"message": "bad"}}) if asked["question"] == "Question 4?" else fair(asked, tries)

    with running(broken) as judge:
        summary = judge_predictions(folder, settings(judge, retries=1))
        assert (summary["judged"], summary["failed"], summary["unreadable"]) == (4, 2, 0)
        assert summary["causes"] == {"InternalServerError": 1, "BadRequestError": 1}
        assert summary["accuracy"]["n"] == 4
        judge.say, before = fair, len(judge.requests)
        assert judge_predictions(folder, settings(judge))["judged"] == 6
        assert sorted(judge.questions()[before:]) == ["Question 3?", "Question 4?"]


def test_a_timeout_is_counted(folder: Path) -> None:
    with running(fair, pause=0.5) as judge:
        summary = judge_predictions(folder, settings(judge, timeout=0.1, retries=0))
    assert (summary["judged"], summary["failed"], summary["causes"]) == (0, 6, {"APITimeoutError": 6})
    assert "accuracy" not in summary


@pytest.mark.parametrize("body", [b"<html>", {"choices": []}, ""])
def test_an_answer_without_a_text_is_counted(folder: Path, body: Any) -> None:
    with running(lambda asked, tries: (200, body)) as judge:
        summary = judge_predictions(folder, settings(judge, retries=0))
    assert (summary["judged"], summary["failed"]) == (0, 6)


def test_nobody_there_is_counted(folder: Path) -> None:
    with running(fair) as judge:
        pass
    summary = judge_predictions(folder, settings(judge, retries=0))
    assert summary["causes"] == {"APIConnectionError": 6}


def test_a_refused_key_stops_and_is_not_shown(folder: Path, monkeypatch: Any, capsys: Any, caplog: Any) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with running(lambda asked, tries: (401, {"error": {"message": f"wrong key {KEY}"}})) as judge:
        command = ["judge", "--predictions", str(folder), "--base_url", judge.url, "--model", "m"]
        assert main([*command, "--api_key_env", "MY_KEY", "--concurrency", "2"]) == 2
    assert len(judge.requests) <= 4  # not one an item
    captured = capsys.readouterr()
    assert "wrong key ***" in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    everything = captured.out + captured.err + caplog.text
    everything += "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file())
    assert KEY not in everything


def test_the_key_is_written_nowhere(folder: Path) -> None:
    def echoes(asked: dict[str, Any], tries: int) -> tuple[int, Any]:
        return (
            (200, f"your key is {KEY}")
            if asked["question"] != "Question 0?"
            else (400, {"error": {"message": "x" * 245 + KEY}})
        )

    with running(echoes) as judge:
        chosen = settings(judge)
        assert judge_predictions(folder, chosen)["unreadable"] == 5
    assert KEY[:8] not in "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file())
    assert KEY not in repr(chosen)


def test_no_more_requests_at_a_time_than_allowed(tmp_path: Path) -> None:
    file = PredictionFile(tmp_path / "arm", {"task": "vsr"})
    file.append(predictions(20))
    with running(fair, pause=0.02) as judge:
        judge_predictions(file.folder, settings(judge, concurrency=3))
    assert judge.most_at_once == 3
    assert sorted(judge.questions()) == sorted(row.prompt for row in predictions(20))


def test_goes_on_after_a_kill_and_asks_anew_what_changed(folder: Path, tmp_path: Path) -> None:
    with running(fair) as judge:
        judge_predictions(folder, settings(judge))
        path = folder / "judges" / "some-judge" / JUDGEMENTS
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[:3]) + lines[3][:20], encoding="utf-8")  # cut in the middle of a row
        before = len(judge.requests)
        assert judge_predictions(folder, settings(judge))["judged"] == 6
        assert len(judge.requests) == before + 3
        other = PredictionFile(tmp_path / "again", {"task": "vsr", "arm": "world"})
        other.append(predictions(6, output="red"))
        (tmp_path / "again" / "judges").symlink_to(folder / "judges")
        before = len(judge.requests)
        assert judge_predictions(other.folder, settings(judge))["accuracy"]["estimate"] == pytest.approx(4 / 6)
        assert judge.questions()[before:] == ["Question 0?"]


def test_another_judge_is_not_mixed_in(folder: Path) -> None:
    with running(fair) as judge:
        judge_predictions(folder, settings(judge))
        with pytest.raises(ValueError, match="judgements made with other temperature"):
            judge_predictions(folder, settings(judge, temperature=None))


def test_the_command_judges_every_arm(folder: Path, capsys: Any) -> None:
    PredictionFile(folder.parent / "gemma", {"task": "vsr", "arm": "gemma"}).append(predictions(4))
    with running(fair) as judge:
        command = ["judge", "--predictions", str(folder.parent), "--base_url", judge.url, "--model", "some/judge"]
        assert main(command) == 0
        gemma, world = capsys.readouterr().out.splitlines()
        assert "gemma: judged right 50.0 % [" in gemma
        assert "of 4 of 4; 0 unreadable, 0 failed, 0 not asked; agrees with the rules on 100.0 %" in gemma
        assert "of 6 of 7; 0 unreadable, 0 failed, 1 not asked" in world
        assert main([*command, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[str(folder)]["judged"] == 6
        assert len(judge.requests) == 10


MISTAKES = [
    ({"base_url": "ftp://here"}, "expected a URL such as http"),
    ({"base_url": f"https://me:{KEY}@here/v1"}, "holds credentials"),
    ({"base_url": f"https://here/v1?key={KEY}"}, "holds credentials"),
    ({"model": " "}, "name the model"),
    ({"concurrency": 0}, "concurrency=0"),
]


@pytest.mark.parametrize(("wrong", "message"), MISTAKES)
def test_settings_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        JudgeSettings(**{"base_url": "http://127.0.0.1/v1", "model": "m", **wrong})
    assert KEY not in str(raised.value)


def test_no_predictions_and_no_endpoint(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert main(["judge", "--predictions", str(tmp_path), "--model", "m"]) == 2
    assert "give --base_url" in capsys.readouterr().err
    assert main(["judge", "--predictions", str(tmp_path), "--model", "m", "--base_url", "http://127.0.0.1:1/v1"]) == 2
    assert "no predictions.jsonl there or below" in capsys.readouterr().err
