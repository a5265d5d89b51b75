"""`theworld nano`: the command that is gone says what to type, and an encoder that is not there what there is."""

import pytest

from theworld.cli.main import main


@pytest.mark.parametrize("options", [[], ["--probes"], ["--model", "nano", "--scenes=runs/nano/scenes", "--json"]])
def test_nano_evaluate_names_its_successor(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nano", "evaluate", *options]) == 2
    told = capsys.readouterr().err.strip()
    assert told.splitlines() == [told]
    assert "theworld evaluate --task micro_world --arms all" in told


def test_nano_fuse_names_the_world_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nano", "fuse", "--world_encoder", "cosmos", "wurld"]) == 2
    assert "world_encoder='wurld': expected one of cosmos, cosmos_features" in capsys.readouterr().err
