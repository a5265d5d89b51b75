import json
import subprocess
import sys
import time

import pytest
import torch

from theworld.cli.main import main


def test_text_names_the_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed["torch"] == torch.__version__
    assert printed["devices"].endswith("cpu")


def test_json_parses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"]["torch"] == torch.__version__


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
