"""What is imagined, and the files it is written to."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from theworld import TheWorld
from theworld.analysis.animate import enlarge, save_rollout
from theworld.analysis.imagine import decode_frames, imagine
from theworld.model.world_encoders import CosmosWorldEncoder

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)]


@pytest.fixture
def frames() -> list[Image.Image]:
    """The present and one step of four frames, 33 x 20 pixels: MP4 wants even sides."""
    return [Image.new("RGB", (33, 20), colour) for colour in COLOURS]


def test_frames_are_those_of_the_latents_that_the_model_gets(world: TheWorld, images: list[Image.Image]) -> None:
    encoder = world.model.world_encoder
    assert isinstance(encoder, CosmosWorldEncoder)
    latents = encoder.encode(world.processor.world_pixels(images[0]), 2)
    decoded = np.stack([np.asarray(frame) for frame in decode_frames(world, latents)])
    assert decoded.shape == (9, 32, 32, 3)
    imagined = np.stack([np.asarray(frame) for frame in imagine(world, images[0], 2)])
    assert np.array_equal(imagined, decoded)
    assert not np.array_equal(imagined, np.stack([np.asarray(frame) for frame in imagine(world, images[0], 2, seed=5)]))


def test_more_steps_than_the_model_knows_name_both_numbers(world: TheWorld, images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match=r"num_world_steps=5: expected 0 to max_world_steps=4"):
        imagine(world, images[0], 5)


def test_small_frames_are_enlarged_by_whole_pixels(frames: list[Image.Image]) -> None:
    checkered = Image.fromarray(np.array([[[0] * 3, [255] * 3], [[255] * 3, [0] * 3]], np.uint8))
    large = np.asarray(enlarge(checkered, 5))
    assert large.shape == (6, 6, 3)
    assert set(np.unique(large)) == {0, 255}
    assert enlarge(frames[0], 20).size == frames[0].size


def test_gif_shows_every_frame_and_rests_on_the_last(frames: list[Image.Image], tmp_path: Path) -> None:
    save_rollout(frames, tmp_path / "new" / "out.GIF", fps=10, caption="Where to?\nleft")
    with Image.open(tmp_path / "new" / "out.GIF") as gif:
        assert gif.n_frames == 5
        for index, colour in enumerate(COLOURS):
            gif.seek(index)
            assert gif.convert("RGB").getpixel((50, 50)) == colour
            assert gif.info["duration"] == (1000 if index == 4 else 100)
        assert gif.height > gif.width * 20 // 33, "the caption stands below"


@pytest.mark.parametrize("fps", [8, 2.5])
def test_mp4_shows_every_frame(frames: list[Image.Image], tmp_path: Path, fps: float) -> None:
    save_rollout(frames, tmp_path / "out.mp4", fps=fps)
    with av.open(tmp_path / "out.mp4") as film:
        assert float(film.streams.video[0].average_rate) == fps
        shown = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(shown) == 5
    for picture, colour in zip(shown, COLOURS, strict=True):
        assert np.abs(picture[50, 50].astype(int) - colour).max() < 12, "what compression costs"


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (5, 5, 1), (9, 9, 1), (17, 8, 3)])
def test_sheet_shows_every_frame(tmp_path: Path, count: int, columns: int, rows: int) -> None:
    greys = [Image.new("RGB", (32, 32), (10 + 10 * index,) * 3) for index in range(count)]
    save_rollout(greys, tmp_path / "out.png")
    sheet = np.asarray(Image.open(tmp_path / "out.png"))
    assert sheet.shape[:2] == (rows * (128 + 28) + 8, columns * (128 + 8) + 8)
    assert {10 + 10 * index for index in range(count)} <= set(sheet[:, :, 0].flatten().tolist())


@pytest.mark.parametrize("name", ["out.webp", "out"])
def test_other_endings_are_refused(frames: list[Image.Image], tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected a file that ends in \.gif, \.mp4 or \.png"):
        save_rollout(frames, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fps", [0, -1, 1000])
def test_a_pace_that_cannot_be_shown(frames: list[Image.Image], tmp_path: Path, fps: float) -> None:
    with pytest.raises(ValueError, match=f"fps={fps}"):
        save_rollout(frames, tmp_path / "out.gif", fps=fps)


def test_decoding_needs_a_world(world: TheWorld, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(world.model.world_encoder), "can_decode", False)
        with pytest.raises(ValueError, match="cannot decode its features"):
            imagine(world, images[0])
    monkeypatch.setattr(world.model, "world_encoder", None)
    with pytest.raises(ValueError, match="enable_world=True"):
        imagine(world, images[0])
