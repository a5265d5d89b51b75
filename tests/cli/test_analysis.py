"""`theworld imagine`, `align` and `ask --explain` on the nano model: files, what is said of them, one-line errors."""

import json
from pathlib import Path

import pytest
from PIL import Image

from theworld.cli.main import main

SCENE = "src/theworld/nano/examples/drop.png"
QUESTION = "When everything has settled, which bin will hold the white ball?"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])


def test_imagine_writes_the_rollout_and_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.gif"
    assert main(["imagine", SCENE, "--num_world_steps", "1", "-o", str(output), "--question", QUESTION, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["frames"] == 5
    assert printed["num_world_steps"] == 1
    assert printed["answer"]
    with Image.open(output) as gif:
        assert gif.n_frames == 5
        assert gif.width == 256


def test_a_file_that_cannot_be_written_is_named_as_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imagine", SCENE, "--num_world_steps", "0", "-o", "/proc/out.gif"]) == 2
    line = "theworld: error: /proc/out.gif: No such file or directory; check the path and its permissions\n"
    assert capsys.readouterr().err.endswith(line)


def test_another_seed_imagines_and_answers_from_another_rollout(tmp_path: Path) -> None:
    for seed in (0, 1):
        output = str(tmp_path / f"{seed}.png")
        assert main(["imagine", SCENE, "-o", output, "--question", QUESTION, "--world_seed", str(seed)]) == 0
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()


def test_steps_beyond_the_model_name_both_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imagine", SCENE, "--num_world_steps", "4", "-o", str(tmp_path / "out.gif")]) == 2
    error = capsys.readouterr().err
    assert "num_world_steps=4" in error
    assert "max_world_steps=3" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagine", SCENE, "--world_seed", str(2**63)], f"world_seed={2**63}: expected 0 to {2**63 - 1}"),
        (["imagine", SCENE, "--world_seed", "-1"], f"world_seed=-1: expected 0 to {2**63 - 1}"),
        (["imagine", ""], "the image is empty text; expected a path, a URL or base64"),
        (["imagine", SCENE, "-o", "out.avi"], "out.avi: expected a file that ends in .gif, .mp4 or .png"),
        (["ask", SCENE, "What?", "--explain", "why.jpg"], "why.jpg: expected a file that ends in .png, .svg or .pdf"),
        (["ask", SCENE, "What?", "--explain", "why.png", "--no_world"], "contradict each other"),
        (["ask", SCENE, "What?", "--layer", "1"], "--layer 1 selects the layer that --explain draws"),
        (["align", "--folder", "no/such/folder"], "no/such/folder: no such folder of images"),
        (["align", "--folder", "scripts"], "scripts: no images"),
        (["align", "--images", "README.md"], "README.md: not an image"),
        (["align", "--samples", "1"], "--samples 1"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("theworld.cli.loading.load_model", lambda *_, **__: pytest.fail("loaded a model"))
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_explain_draws_beside_the_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", SCENE, QUESTION]) == 0
    answer = capsys.readouterr().out
    assert main(["ask", SCENE, QUESTION, "--explain", str(tmp_path / "why.png"), "--layer", "4"]) == 0
    assert capsys.readouterr().out == answer
    numbers = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    assert numbers["answer"] == answer.strip()
    assert numbers["positions"]["world"] == 64
    assert len(numbers["world_attention_of_layers"]) == 5
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.width > 600


def test_align_takes_images_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("b.png", "a.PNG"):
        Image.open("src/theworld/nano/examples/race.png").save(folder / name)
    (folder / "notes.txt").write_text("no image", encoding="utf-8")
    images = ["--images", SCENE, "--folder", str(folder)]
    output = tmp_path / "out"
    assert main(["align", *images, "--output", str(output), "--num_world_steps", "1", "--samples", "20", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"] == [SCENE, str(folder / "a.PNG"), str(folder / "b.png")]
    assert printed["tokens"]["world"] == 3 * 2 * 16
    assert printed["sampled"] == 20
    assert json.loads((output / "alignment.json").read_text(encoding="utf-8")) == printed
    assert (output / "alignment.png").is_file()


def test_nano_is_aligned_at_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["align", "--output", str(tmp_path)]) == 0
    assert "same place" in capsys.readouterr().out
    place = json.loads((tmp_path / "alignment.json").read_text(encoding="utf-8"))["cosine_at_place"]
    assert place["same_place"] > 0.5 > 2 * place["other_place"]
