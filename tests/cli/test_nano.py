"""`theworld nano`: the command that is gone says what to type, and an encoder that is not there what there is."""

import pytest

from theworld.cli.main import main
from theworld.nano.kinds import KINDS


@pytest.mark.parametrize("options", [[], ["--probes"], ["--model", "nano", "--scenes=runs/nano/scenes", "--json"]])
def test_nano_evaluate_names_its_successor(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nano", "evaluate", *options]) == 2
    told = capsys.readouterr().err.strip()
    assert told.splitlines() == [told]
    assert "theworld evaluate --task micro_world --arms all" in told


def test_nano_fuse_names_the_world_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nano", "fuse", "--world_encoder", "cosmos", "wurld"]) == 2
    assert "world_encoder='wurld': expected one of cosmos, cosmos_features" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "counts"),
    [([], dict.fromkeys(KINDS, 50)), (["--pegs", "3", "--drop=2"], {"drop": 2, "pegs": 3})],
)
def test_nano_scenes_makes_the_kinds_that_are_named_or_all(
    options: list[str], counts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, int]] = []
    monkeypatch.setattr(
        "theworld.nano.scenes.generate", lambda _folder, _split, asked, _workers: made.append(asked) or []
    )
    assert main(["nano", "scenes", "somewhere", *options]) == 0
    assert made == [counts]
