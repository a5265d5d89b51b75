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
        (FileNotFoundError(2, "No such file or directory", "a.png"), "[Errno 2] No such file or directory: 'a.png'"),
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


def test_our_own_faults_are_not_dressed_up(failing) -> None:
    failing(AssertionError("ours"))
    with pytest.raises(AssertionError):
        cli.main(["fail"])


def test_version(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"theworld {theworld.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["env", "--nothing"]])
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
