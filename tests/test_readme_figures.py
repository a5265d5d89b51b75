"""The README's figures are what their commands draw."""

import json
from pathlib import Path

import pytest
from PIL import Image

from scripts import readme_figures
from scripts.readme_figures import PANEL, PANEL_TOP, SCALE, Moment, Scene, draw, moments, write_animation
from scripts.write_results import FIGURES, RESULTS, results_figures
from tests.scripts import run_script
from theworld.utils.errors import TheWorldError

STILL, ANIMATION = "three-answers.png", "three-answers.gif"


def facts(folder: Path, name: str) -> tuple:
    """What two runs share on every machine: size, number of frames, and every text."""
    with Image.open(folder / name) as image:
        comment = image.info["comment"]
        return image.size, getattr(image, "n_frames", 1), json.loads(comment)


def scene(frames: int = 3) -> Scene:
    """Three answers, the last one right, about scenes of `frames` frames with a different colour in every pixel."""
    imagined = [Image.new("RGB", (32, 32)) for _ in range(frames)]
    for place, image in enumerate(imagined):
        image.putdata([(place, x, y) for y in range(32) for x in range(32)])
    return Scene("Will it fall?", ["no", "no", "yes"], "yes", imagined, imagined)


def test_the_script_draws_the_figures_that_the_readme_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_script(monkeypatch, "scripts/readme_figures.py", "--output", str(tmp_path))
    for name in (ANIMATION, STILL):
        assert facts(tmp_path, name) == facts(FIGURES, name), "run python scripts/readme_figures.py"
    for name in ("architecture-light.svg", "architecture-dark.svg"):
        assert (tmp_path / name).read_bytes() == (FIGURES / name).read_bytes()


def test_the_results_figure_is_drawn_from_the_shipped_numbers() -> None:
    metrics = json.loads((RESULTS / "arms.json").read_text(encoding="utf-8"))
    for name, figure in results_figures(metrics).items():
        assert figure == (FIGURES / name).read_text(encoding="utf-8"), f"{name}: run python scripts/write_results.py"


def test_the_animation_is_small_and_its_still_is_its_last_frame() -> None:
    assert (FIGURES / ANIMATION).stat().st_size <= 600_000
    with Image.open(FIGURES / ANIMATION) as animation, Image.open(FIGURES / STILL) as still:
        animation.seek(animation.n_frames - 1)
        assert animation.convert("RGB").tobytes() == still.convert("RGB").tobytes()


def test_pixels_are_enlarged_to_even_squares() -> None:
    drawn = scene()
    page, side = draw(drawn, Moment(0, 2)), PANEL * SCALE
    left = (page.width - side) // 2
    panel = page.crop((left, PANEL_TOP * SCALE, left + side, PANEL_TOP * SCALE + side))
    assert panel.tobytes() == drawn.imagined[2].resize((side, side), Image.Resampling.NEAREST).tobytes()


def test_answers_are_judged_only_once_the_truth_is_shown() -> None:
    *before, (last, _) = moments(3)
    assert last == Moment(3, 2, 2, truth=True)
    assert not any(moment.truth for moment, _ in before)
    # The rollout's answer is shown after the imagined future, and the simulated future after the answer
    assert [moment.imagined for moment, _ in before if moment.answers < 3] == [None, None, None, 0, 1, 2]
    assert [moment.simulated for moment, _ in before if moment.answers == 3] == [None, 0, 1, 2]


def test_a_written_story_holds_its_texts(tmp_path: Path) -> None:
    write_animation(scene(), tmp_path)
    assert facts(tmp_path, ANIMATION) == ((1600, 912), 11, facts(tmp_path, STILL)[2])
    assert facts(tmp_path, STILL)[2]["Truth"] == "yes"


def test_a_scene_in_which_another_answer_is_right_as_well_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"plain Gemma 3": "right", "current frame": "no", "rollout": "right"}
    monkeypatch.setattr(readme_figures, "answer_three_ways", lambda *_: answers)
    with pytest.raises(TheWorldError, match=r"--scene stack: the answers are .* and the truth is 'right'; expected"):
        readme_figures.answer_scene("stack")
