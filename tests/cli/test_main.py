import argparse
from types import SimpleNamespace

import pytest

import theworld
from theworld.cli import main as cli


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    def install(error: BaseException) -> None:
        def run(args: argparse.Namespace) -> int:
            raise error

        command = SimpleNamespace(__doc__="Fail.", add_arguments=lambda parser: None, run=run)
        monkeypatch.setitem(cli.COMMANDS, "fail", command)

    return install


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("steps must be\n  at most 16, got 17."), "steps must be at most 16, got 17."),
        (KeyError("no task 'x'; known: 'y'"), "no task 'x'; known: 'y'"),
        (
            FileNotFoundError(2, "No such file or directory", "a.png"),
            "a.png: No such file or directory; check the path and its permissions",
        ),
        (OSError(28, "No space left on device", "a.png"), "a.png: No space left on device"),
        (ImportError("install it"), "install it"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(failing, capsys, error: Exception, line: str) -> None:
    failing(error)
    assert cli.main(["fail"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"theworld: error: {line}\n"
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_shows_the_traceback(failing, arguments: list[str]) -> None:
    failing(ValueError("bad"))
    with pytest.raises(ValueError, match="bad"):
        cli.main(arguments)


@pytest.mark.parametrize(
    "error",
    [AssertionError("ours"), AttributeError("ours"), TypeError("ours"), IndexError("ours"), RuntimeError("ours")],
)
def test_our_own_faults_are_called_bugs(failing, capsys, error: Exception) -> None:
    failing(error)
    assert cli.main(["fail"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"theworld: bug: {type(error).__name__}: ours; please report it")
    assert "--debug" in printed
    assert printed.count("\n") == 1
    with pytest.raises(type(error)):
        cli.main(["fail", "--debug"])


@pytest.mark.parametrize(
    "mistake",
    ["{}['steps']", "first, second = [1]", "int('many')", "[1].remove(2)", "__import__('datetime').date(1, 13, 1)"],
)
def test_a_value_error_that_python_itself_raises_is_a_bug(monkeypatch, capsys, mistake: str) -> None:
    def run(args: argparse.Namespace) -> int:
        exec(compile(mistake, "module.py", "exec"), {"__name__": "theworld.cli.fail"})
        return 0

    command = SimpleNamespace(__doc__="Fail.", add_arguments=lambda parser: None, run=run)
    monkeypatch.setitem(cli.COMMANDS, "fail", command)
    assert cli.main(["fail"]) == 1
    assert capsys.readouterr().err.startswith("theworld: bug: ")


@pytest.mark.parametrize(
    "mistake",
    [
        "open('nowhere.txt')",
        "import nowhere",
        "b'\\xff'.decode()",
        "import json; json.loads('{')",
        "import torch; raise torch.OutOfMemoryError('CUDA out of memory')",
        "from theworld import TheWorldConfig; TheWorldConfig(num_world_steps='many')",
    ],
)
def test_errors_of_files_and_libraries_are_the_users(monkeypatch, capsys, mistake: str) -> None:
    command = SimpleNamespace(
        __doc__="Fail.",
        add_arguments=lambda parser: None,
        run=lambda args: exec(mistake, {"__name__": "theworld.cli.fail"}),
    )
    monkeypatch.setitem(cli.COMMANDS, "fail", command)
    assert cli.main(["fail"]) == 2
    assert capsys.readouterr().err.startswith("theworld: error: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train", "--lerning_rate", "3"], "unknown option --lerning_rate: did you mean '--learning_rate'?"),
        (["train", "--lr", "3"], "unknown option --lr: did you mean '--learning_rate'?"),
        (["ask", "a.png", "?", "--no-world"], "unknown option --no-world: did you mean '--no_world'?"),
        (["ask", "a.png", "?", "--steps", "3"], "--steps is now --num_world_steps"),
        (["ask", "a.png", "?", "--cosmos", "c"], "--cosmos is now --cosmos_model_name"),
        (["demo", "--steps", "3"], "unknown option --steps; theworld demo --help lists the options"),
        (["imagine", "a.png", "--seed", "3"], "--seed is now --world_seed"),
        (["ask", "a.png", "?", "--max_new", "3"], "unknown option --max_new: did you mean '--max_new_tokens'?"),
        (["nano", "train", "--smok"], "unknown option --smok: did you mean '--smoke'?"),
        (["--debu", "env"], "unknown option --debu"),
        (["ask"], "the following arguments are required: image, question"),
    ],
)
def test_options_are_taken_by_their_full_names(arguments: list[str], line: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    printed = capsys.readouterr()
    assert printed.err.startswith(f"theworld: error: {line}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_version(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"theworld {theworld.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["env", "--nothing"]])
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
