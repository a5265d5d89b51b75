"""`theworld ask`: an answer, or one clear line and exit code 2."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from theworld import TheWorld
from theworld.cli.main import main

WORLD = {"world_image_size": 32, "world_inference_steps": 2, "world_guidance_scale": 1.0, "max_world_steps": 3}


@pytest.fixture(scope="module")
def checkpoint(gemma_folder: Path, cosmos_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    TheWorld.from_pretrained(gemma_folder, cosmos_model_name=str(cosmos_folder), **WORLD).save_pretrained(folder)
    return folder


@pytest.fixture
def picture(images: list[Image.Image], tmp_path: Path) -> Path:
    images[0].save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def ask(*arguments: object) -> int:
    return main(["ask", *map(str, arguments), "--max_new_tokens", "4"])


def test_json_says_what_was_asked_of_whom(checkpoint: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--num_world_steps", 1, "--use_world", "--json"]
    assert ask(picture, "What now?", "--model", checkpoint, *flags) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["question"] == "What now?"
    assert printed["num_world_steps"] == 1
    assert isinstance(printed["answer"], str)


def test_no_world_loads_no_world_model(
    checkpoint: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "theworld.model.checkpoints.load.load_encoder", lambda *_, **__: pytest.fail("loaded the world")
    )
    assert ask(picture, "What now?", "--model", checkpoint, "--no_world") == 0


def test_a_new_fusion_takes_its_world_model_by_flag(gemma_folder: Path, cosmos_folder: Path, picture: Path) -> None:
    # The tiny VAE sees 224 px here, the default
    world = ("--cosmos_model_name", cosmos_folder, "--num_world_steps", 0)
    assert ask(picture, "What now?", "--model", gemma_folder, *world) == 0


BAD_IMAGES = {
    "missing.png": (None, "no such image file"),
    "text.png": (b"not an image", "not an image that PIL can read"),
    "empty.png": (b"", "not an image that PIL can read"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_an_image_that_is_none(checkpoint: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = BAD_IMAGES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert ask(tmp_path / name, "What?", "--model", checkpoint) == 2
    one_line(capsys, name, message)


def test_the_image_is_opened_before_the_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path / "absent.png", "What?", "--model", "./no/such/model") == 2
    one_line(capsys, "absent.png", "no such image file")


def test_a_truncated_image(checkpoint: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture.write_bytes(picture.read_bytes()[:-200])
    assert ask(picture, "What?", "--model", checkpoint) == 2
    one_line(capsys, "picture.png", "damaged")


def test_a_folder_in_place_of_an_image(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, "What?", "--model", checkpoint) == 2
    one_line(capsys, "a folder, not an image file")


def test_image_and_question_in_the_wrong_order(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("What now?", picture) == 2
    one_line(capsys, "no such image file: 'What now?'", "picture.png' is one: give IMAGE before QUESTION")
    (picture.parent / "note.txt").write_text("?", encoding="utf-8")
    assert ask("What now?", picture.parent / "note.txt") == 2
    one_line(capsys, "What now?: no such image file")


@pytest.mark.parametrize("question", ["", "   "])
def test_an_empty_question(checkpoint: Path, picture: Path, question: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(picture, question, "--model", checkpoint) == 2
    one_line(capsys, "the question is empty")


@pytest.mark.parametrize("steps", [-1, 4])
def test_steps_out_of_range(checkpoint: Path, picture: Path, steps: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(picture, "What?", "--model", checkpoint, "--num_world_steps", steps) == 2
    one_line(capsys, f"num_world_steps={steps}", "max_world_steps=3")


def test_steps_without_a_world(checkpoint: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(picture, "What?", "--model", checkpoint, "--num_world_steps", 1, "--no_world") == 2
    one_line(capsys, "--no_world", "drop one")


def test_a_base_that_is_no_gemma(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}), encoding="utf-8"
    )
    assert ask(picture, "What?", "--model", tmp_path) == 2
    one_line(capsys, "'llama'", "Gemma 3")


def test_a_model_folder_that_does_not_exist(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(picture, "What?", "--model", "./no/such/model") == 2
    one_line(capsys, "no/such/model")


def test_a_run_folder_is_its_newest_checkpoint(
    checkpoint: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoint, tmp_path / "run" / "checkpoint-1000")
    (tmp_path / "run" / "checkpoint-999").mkdir()
    (tmp_path / "run" / "checkpoint-999" / "config.json").write_text("damaged", encoding="utf-8")
    assert ask(picture, "What?", "--model", tmp_path / "run", "--use_world") == 0
    assert main(["imagine", str(picture), "--model", str(tmp_path / "run"), "-o", str(tmp_path / "a.gif")]) == 0
    capsys.readouterr()
    shutil.rmtree(tmp_path / "run" / "checkpoint-1000")
    assert ask(picture, "What?", "--model", tmp_path / "run") == 2
    one_line(capsys, str(tmp_path / "run"))


def test_a_world_folder_without_a_vae(
    gemma_folder: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cosmos" / "transformer").mkdir(parents=True)
    assert ask(picture, "What?", "--model", gemma_folder, "--cosmos_model_name", tmp_path / "cosmos") == 2
    one_line(capsys, "no vae/config.json there")


def test_a_damaged_checkpoint(
    checkpoint: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert ask(picture, "What?", "--model", broken) == 2
    one_line(capsys, "model.safetensors", "damaged")


def one_line(capsys: pytest.CaptureFixture[str], *fragments: str) -> None:
    """Standard error is one line that begins with the command's name and holds every fragment."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("theworld: error: ")
    for fragment in fragments:
        assert fragment in lines[0], lines[0]
