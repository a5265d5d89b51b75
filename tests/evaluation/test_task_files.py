"""Tasks by name: built-in ones, and those in a file outside the package."""

from pathlib import Path

import pytest

from tests.evaluation.arms import answer_rows, make_items
from theworld.data.schema import SourceSettings
from theworld.evaluation.score import task_numbers
from theworld.evaluation.settings import TASK_NAMES
from theworld.evaluation.store.refusals import ArmRun
from theworld.evaluation.tasks import TASKS, find_task
from theworld.evaluation.tasks.base import ALL, MARGIN, Task, kind_of
from theworld.utils.errors import TheWorldError

FILE = """
from theworld.evaluation.tasks.base import Score, Task, TaskItems

MINE = Task("mine", "Mine", lambda settings: TaskItems(()), lambda item, output: Score(None, 0.0))
OTHER, TAKEN = 3, Task("vsr", "Mine", MINE.load, MINE.score)
"""


def test_a_task_is_found_by_name_and_in_a_file(tmp_path: Path) -> None:
    assert all(find_task(name) is TASKS[name] for name in TASKS)
    (tmp_path / "mine.py").write_text(FILE, encoding="utf-8")
    assert find_task(f"{tmp_path}/mine.py:MINE").title == "Mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wsr", "expected one of blink, custom, micro_world, spatial_rgpt, vsr, or path/to/file.py:NAME"),
        ("mine.py", "or path/to/file.py:NAME"),
        ("absent.py:MINE", "absent.py: no such file; give --task path/to/file.py:NAME"),
        ("mine.py:NONE", "NONE is missing, expected a Task; the file has mine.py:MINE"),
        ("mine.py:", "is missing, expected a Task"),
        ("mine.py:OTHER", "OTHER is a int, expected a Task"),
        ("mine.py:TAKEN", "its name 'vsr' is that of a built-in task"),
        ("broken.py:MINE", "broken.py failed: SyntaxError"),
        ("raises.py:MINE", "raises.py failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_wrong_task_is_refused_in_one_line(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, text in (("mine.py", FILE), ("broken.py", "MINE = ("), ("raises.py", "1 / 0")):
        Path(file).write_text(text, encoding="utf-8")
    with pytest.raises(TheWorldError) as found:
        find_task(name)
    assert said in str(found.value)
    assert "\n" not in str(found.value)


def test_an_error_in_a_task_file_names_file_line_and_function(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    text = (
        "from theworld.evaluation.tasks.base import Score, Task, TaskItems\n"
        "def load(settings):\n    return open(None)\n"
        "def score(item, output):\n    return Score(wrong=1)\n"
        "MINE = Task('mine', 'Mine', load, score)\n"
    )
    path.write_text(text, encoding="utf-8")
    task = find_task(f"{path}:MINE")
    with pytest.raises(TheWorldError, match=r"mine.py, line 3, load\(\) failed: TypeError: "):
        task.load(SourceSettings(path=None))
    with pytest.raises(TheWorldError, match=r"mine.py, line 5, score\(\) failed: TypeError: .*'wrong'"):
        task.score(make_items(1)[0], "yes")


def test_the_kind_of_a_family() -> None:
    kinds = ("predictive", "static")
    assert [kind_of(name, kinds) for name in ("static/count", "predictive/race", "static", "odd/count")] == [
        *("static", "predictive", "static"),
        ALL,
    ]
    assert kind_of("static/count", ()) == ALL


def test_a_kind_without_a_margin_has_the_usual_one() -> None:
    task = Task("mine", "Mine", TASKS["vsr"].load, TASKS["vsr"].score, kinds=("a", "b"), margins={"a": 0.05})
    runs = {"world": [ArmRun("world", {"identity": {}}, answer_rows(make_items(4), "world", [True] * 4))]}
    assert task_numbers(runs, kinds=task.kinds, margins=task.margins)["margins"] == {"a": 0.05, "b": MARGIN}


def test_names_are_known_without_the_tasks() -> None:
    assert tuple(TASKS) == TASK_NAMES
