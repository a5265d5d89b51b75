"""`theworld chat`, with its lines piped in as a script would."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from theworld.cli.main import main
from theworld.nano.examples import FOLDER, load_example

STACK = load_example("stack")


def chat(*lines: str, arguments: tuple[str, ...] = (), monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return main(["chat", *arguments])


def test_a_piped_conversation_in_a_process_of_its_own() -> None:
    lines = [f"/image {FOLDER / 'stack.png'}", STACK.question, "/world off", STACK.question, "/quit", "never read"]
    command = [sys.executable, "-m", "theworld.cli.main", "chat"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    shown, answer, world, other = done.stdout.splitlines()
    assert shown == f"{FOLDER / 'stack.png'}, 32 x 32 px"
    assert answer == STACK.answer
    assert world == "world off"
    assert other


def test_commands_say_what_they_did(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ("/steps 1", "/world off", "/world on", "/steps", "/clear", "", "/help")
    assert chat(*lines, monkeypatch=monkeypatch) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:5] == ["world on, steps 1", "world off", "world on, steps 1", "world on, steps 1", "forgotten"]
    assert [line.split()[0] for line in printed[5:]] == [
        "/image",
        "/world",
        "/steps",
        "/clear",
        "/help",
        "/quit",
        "Anything",
    ]


MISTAKES = {
    "/image": "expected a path or URL",
    "/image missing.png": "missing.png: no such image file",
    f"/image '{FOLDER}'": "a folder, not an image file",
    "/world maybe": "expected /world on or /world off",
    "/steps three": "/steps three: expected a whole number",
    "/steps 9": "num_world_steps=9",
    "/imagine": "/imagine: no such command; /help lists them",
    "What is <start_of_image>?": "reserved",
}


def test_a_mistake_is_one_line_and_the_chat_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [*MISTAKES, STACK.question]  # the image of --image still waits for the question
    arguments = ("--image", str(FOLDER / "stack.png"))
    assert chat(*lines, arguments=arguments, monkeypatch=monkeypatch) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{STACK.answer}\n"
    errors = captured.err.splitlines()
    assert len(errors) == len(MISTAKES)
    for error, expected in zip(errors, MISTAKES.values(), strict=True):
        assert error.startswith("error: ")
        assert expected in error


def test_a_wrong_start_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--image", str(tmp_path / "missing.png")]) == 2
    assert "no such image file" in capsys.readouterr().err
    assert main(["chat", "--no_world", "--num_world_steps", "1"]) == 2
    assert "drop one" in capsys.readouterr().err


def test_a_person_types_at_a_prompt_until_ctrl_d(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin = io.StringIO("/steps 0\n")  # then the end, which Ctrl-D is
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["chat"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("nano, world on, steps 3. Ask something")
    assert "> world on, steps 0\n" in printed
    assert printed.endswith("> \n")
