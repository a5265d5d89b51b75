import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import theworld
from theworld.cli.main import main
from theworld.utils import bug_report, reproducibility


def test_text_names_the_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed["torch"] == torch.__version__
    assert printed["devices"].endswith("cpu")


def test_json_parses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"]["torch"] == torch.__version__


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The rows of the table that `theworld env --report` prints."""
    assert main(["env", "--report"]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert (head, rule) == ("| | |", "|---|---|")
    return dict(row.removeprefix("| ").removesuffix(" |").split(" | ", 1) for row in rows)


def test_report_is_a_table_of_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = report(capsys)
    assert rows["torch"] == torch.__version__
    assert rows["theworld"].startswith(f"{theworld.__version__}, ")
    assert {"transformers", "diffusers", "accelerate", "datasets", "peft", "trl", "numpy", "Python"} <= rows.keys()
    assert re.search(r"CPU, \d+ cores, [1-9]\d* GiB$", rows["devices"])
    assert {"nano", "train", "eval", "judge"} <= set(rows["complete extras"].split(", "))
    assert rows["HF_HUB_OFFLINE"] == "1"


def test_report_says_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str) -> str | None:
        return None if name in ("peft", "scikit-learn") else "1.0"

    for module in (bug_report, reproducibility):
        monkeypatch.setattr(module, "installed_version", installed)
    rows = report(capsys)
    assert rows["peft"] == "not installed"
    extras = set(rows["complete extras"].split(", "))
    assert {"nano", "serve"} <= extras
    assert not {"train", "eval", "judge", "analysis", "all"} & extras, "judge and all need eval"


def test_report_holds_no_tokens_and_no_home(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token, secret = "hf_" + "x" * 20, "a-token-of-another-form"
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("HF_ENDPOINT", f"https://{token}:{secret}@hub.example/a|b")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "someone" / "hf"))
    monkeypatch.setenv("HF_HUB_CACHE", "/" + "home/else/hub")
    monkeypatch.setenv("THEWORLD_CACHE", "/scratch/home/cache")
    rows = report(capsys)
    assert rows["HF_HOME"] == "~/hf"
    assert rows["HF_HUB_CACHE"] == "~/hub"
    assert rows["THEWORLD_CACHE"] == "/scratch/home/cache"
    assert rows["HF_ENDPOINT"] == r"https://hub.example/a\|b"
    assert not [value for value in rows.values() if token in value or secret in value or "someone" in value]


@pytest.mark.parametrize("user", ["user:password@", "user@", "user:p@ss/word@"])
def test_report_holds_no_password_of_a_mirror(
    user: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"https://{user}mirror.example:8443/hub")
    assert report(capsys)["HF_ENDPOINT"] == "https://mirror.example:8443/hub"


def test_report_and_json_are_two_forms(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["env", "--report", "--json"])
    assert "not allowed with" in capsys.readouterr().err


def test_help_does_without_torch() -> None:
    source = (
        "import sys\n"
        "from theworld.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, timeout=60)
    assert time.perf_counter() - start < 5  # 0.1 s on an idle machine
