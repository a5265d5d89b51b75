"""`theworld precompute`: the config of `theworld train`, a summary, one line for what a user can put right."""

import json
from pathlib import Path

import pytest

from tests.training.runs import tiny_run
from theworld.cli import main as cli


@pytest.fixture
def config(tmp_path: Path, gemma_folder: Path, cosmos_folder: Path) -> str:
    keys = tiny_run(tmp_path, gemma_folder, cosmos_folder, latent_cache=str(tmp_path / "latents")).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(keys), encoding="utf-8")
    return str(tmp_path / "config.json")


def test_it_fills_the_cache_of_a_training_config(config: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "3.png").write_bytes(b"no picture")
    assert cli.main(["precompute", "--config", config, "--skip_budget", "0.1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["computed"], result["present"], result["skipped"]) == (9, 0, 1)
    assert cli.main(["precompute", "--config", config, "--skip_budget", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0 images encoded, 9 already in the cache; 1 of 10 rows skipped: ")
    assert lines[1] == "not_an_image 1 (row3)"
    assert cli.main(["train", "--config", config, "--skip_budget", "0.1"]) == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--latent_cache", "none"], "latent_cache is not set"),
        (["--enable_world", "false"], "only the latents of a frozen world encoder stay the same"),
        (["--image_folder", "/nowhere"], "/nowhere: no such folder"),
        (["--latent_cache", "/proc/latents"], "/proc/latents"),
        (["--latent_cache", __file__], f"{__file__}: a file, not a folder of cached latents; name a folder"),
    ],
)
def test_mistakes_are_one_line(config: str, capsys: pytest.CaptureFixture, arguments: list[str], line: str) -> None:
    assert cli.main(["precompute", "--config", config, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (error,) = [text for text in captured.err.splitlines() if text.startswith("theworld: error: ")]
    assert line in error
