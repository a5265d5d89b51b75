"""`theworld --print_completion`: what a shell completes with the script."""

import shlex
import subprocess
from pathlib import Path

import pytest

from theworld.cli.completion import SHELLS
from theworld.cli.main import main


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["--print_completion", shell])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_script_has_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = script(shell, capsys)
    for name in (
        "ask",
        "evaluate",
        "nano",
        "fuse",
        "num_world_steps",
        "gradient_accumulation_steps",
        "print_completion",
    ):
        assert name in printed


def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "script").write_text(script("bash", capsys), encoding="utf-8")
    (tmp_path / "photo.jpg").touch()
    subprocess.run(["bash", "-n", "script"], cwd=tmp_path, check=True, timeout=60)

    def completed(line: str) -> set[str]:
        """What bash offers for the last word of `line`."""
        words = [*shlex.split(line), *([""] if line.endswith(" ") else [])]
        lines = [
            "source ./script",
            f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}",
            "$(complete -p theworld | sed 's/.*-F \\([^ ]*\\).*/\\1/')",
            'printf "%s\\n" "${COMPREPLY[@]}"',
        ]
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        return set(done.stdout.split())

    assert {"ask", "train", "env"} <= completed("theworld ")
    assert completed("theworld ask --num_w") == {"--num_world_steps"}
    assert completed("theworld nano f") == {"fuse"}
    assert completed("theworld serve --dtype b") == {"bfloat16"}
    assert completed("theworld ask pho") == {"photo.jpg"}


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--print_completion", "cmd"])
    assert ended.value.code == 2
    assert "'cmd'" in (printed := capsys.readouterr().err)
    assert "fish" in printed
