"""Videos of every kind as clips of 1 + 4K frames."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from theworld.data.images import open_image
from theworld.data.open_source import open_source
from theworld.data.schema import Example, Skipped, SourceSettings
from theworld.data.sources import video
from theworld.data.sources.records import IndexedRows


def frame(index: int) -> Image.Image:
    return Image.new("RGB", (32, 32), (10 * index, 0, 0))


def write_frames(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        frame(i).save(folder / f"frame_{i}.png")


def write_animation(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"lossless": True} if path.suffix == ".webp" else {}
    frame(0).save(path, save_all=True, append_images=[frame(i) for i in range(1, count)], duration=100, **options)


def write_video(path: Path, count: int, rate: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.options = {"qscale": "1"}
        for i in range(count):
            for packet in stream.encode(av.VideoFrame.from_image(frame(i))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def load(folder: Path, **settings: Any) -> IndexedRows:
    rows = open_source("video", SourceSettings(path=str(folder), **settings))
    assert isinstance(rows, IndexedRows)
    return rows


def reds(row: Example | Skipped) -> list[int]:
    assert isinstance(row, Example), row
    return [round(np.asarray(open_image(picture))[..., 0].mean() / 10) for picture in row.clip]


def test_a_folder_of_frames_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_frames(tmp_path / "fall", 12)
    clips = load(tmp_path)
    assert len(clips) == 1
    row = clips[0]
    assert isinstance(row, Example)
    assert reds(row) == list(range(9))
    assert row.id == "fall:0"
    assert row.messages == ()
    assert row.images == (tmp_path / "fall" / "frame_0.png",)


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "mp4"])
def test_a_long_video_gives_several_clips(tmp_path: Path, kind: str) -> None:
    (write_video if kind == "mp4" else write_animation)(tmp_path / f"fall.{kind}", 13)
    clips = load(tmp_path, clip_frames=5)
    assert [row.id for row in clips] == [f"fall.{kind}:0", f"fall.{kind}:5"]
    assert [reds(row) for row in clips] == [list(range(5)), list(range(5, 10))]
    first = clips[0]
    assert isinstance(first, Example)
    assert first.images == first.clip[:1]


@pytest.mark.parametrize("kind", ["mp4", "mkv", "gif", "webp", "png", "frames"])
@pytest.mark.parametrize(
    ("clip_fps", "expected"), [(10, range(20)), (5, range(0, 20, 2)), (20, [0, 0, 1, 1, 2, 2, 3, 3, 4])]
)
def test_clips_are_resampled_by_the_frame_times(tmp_path: Path, kind: str, clip_fps: float, expected: Any) -> None:
    """Frames at 10 a second."""
    if kind == "frames":
        write_frames(tmp_path / "fall", 20)
        (tmp_path / "fps.txt").write_text("10\n", encoding="utf-8")
    else:
        (write_video if kind in ("mp4", "mkv") else write_animation)(tmp_path / f"fall.{kind}", 20)
    clips = load(tmp_path, clip_frames=5, clip_fps=clip_fps)
    assert len(clips) == int(2 * clip_fps) // 5
    shown = [red for row in clips for red in reds(row)]
    assert shown[: len(expected)] == list(expected)
    assert reds(clips[len(clips) - 1])[-1] >= 17


def test_a_video_of_another_rate_is_resampled_to_the_worlds(tmp_path: Path) -> None:
    write_video(tmp_path / "fall.mp4", 20, rate=30)
    assert [reds(row) for row in load(tmp_path, clip_frames=5, clip_fps=16)] == [[0, 1, 3, 5, 7], [9, 11, 13, 15, 16]]


def test_a_clip_too_short_at_the_rate_is_skipped(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", 8)
    write_animation(tmp_path / "short.gif", 8)
    write_frames(tmp_path / "short", 8)
    (tmp_path / "short" / "fps.txt").write_text("10", encoding="utf-8")
    assert len(load(tmp_path, clip_frames=5)) == 3
    for row in load(tmp_path, clip_frames=5, clip_fps=5):
        assert isinstance(row, Skipped)
        assert row.cause == "short_clip"
        assert "4 frames at 5 per second, a clip has 5" in row.detail


def test_frames_without_a_stated_rate_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_frames(tmp_path / "fall", 5)
    assert reds(load(tmp_path, clip_frames=5, clip_fps=16)[0]) == list(range(5))
    assert "1 folders of frames have no fps.txt: assuming 16 frames per second" in caplog.text
    for text in ("fast", "0", "-1"):
        (tmp_path / "fps.txt").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"fps.txt: '.*'; expected the frames per second"):
            load(tmp_path, clip_fps=16)


def test_frames_of_one_value_are_no_fewer(tmp_path: Path) -> None:
    """PIL's writers merge equal frames into longer ones; frames on disk are what they are."""
    folder = tmp_path / "still"
    folder.mkdir()
    for i in range(9):
        frame(0).save(folder / f"{i}.png")
    assert reds(load(tmp_path)[0]) == [0] * 9


def test_num_samples_counts_clips(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", 20)
    write_frames(tmp_path / "b", 20)
    assert [row.id for row in load(tmp_path, clip_frames=5, num_samples=5)] == ["a:0", "a:5", "a:10", "a:15", "b:0"]


def test_what_gives_no_clip_is_skipped_by_name(tmp_path: Path) -> None:
    write_frames(tmp_path / "good", 9)
    write_frames(tmp_path / "short", 8)
    (tmp_path / "empty").mkdir()
    frame(0).save(tmp_path / "still.png")
    (tmp_path / "broken.gif").write_bytes(b"GIF89a broken")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "notes.txt").write_text("not a video", encoding="utf-8")
    (tmp_path / ".hidden").mkdir()
    rows = {row.id: row for row in load(tmp_path)}
    assert isinstance(rows.pop("good:0"), Example)
    causes = {name: row.cause for name, row in rows.items() if isinstance(row, Skipped)}
    assert causes.pop("broken.gif") in ("truncated", "not_an_image")
    assert causes == {
        "short": "short_clip",
        "empty": "short_clip",
        "still.png": "short_clip",
        "broken.mp4": "not_a_video",
    }


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_a_file_that_breaks_off_is_skipped(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"fall.{kind}"
    (write_video if kind == "mp4" else write_animation)(path, 9)
    clips = load(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])  # after it was counted
    row = clips[0]
    assert isinstance(row, Skipped)
    assert row.id == f"fall.{kind}:0"
    assert row.cause in ("truncated", "not_a_video")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"clip_frames": 8}, r"clip_frames=8: expected 1 \+ 4K"),
        ({"clip_frames": 0}, "clip_frames=0"),
        ({"streaming": True}, "does not use streaming=True"),
        ({"split": "test"}, "does not use split='test'"),
        ({"question_template": "?"}, "does not use question_template"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    write_frames(tmp_path / "a", 9)
    with pytest.raises(ValueError, match=reason):
        load(tmp_path, **settings)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    (row,) = open_source("video", SourceSettings(path=str(tmp_path), clip_frames=5))
    assert isinstance(row, Skipped)
    assert row.detail.endswith("a.mp4: not a regular file")


def test_a_folder_without_videos_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no videos; expected sub-folders of frames"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        load(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a folder"):
        load(tmp_path / "file")


def test_the_frames_of_a_latent_frame_are_the_models(tmp_path: Path) -> None:
    write_frames(tmp_path / "a", 9)
    assert len(load(tmp_path, clip_frames=3, frames_per_step=2)) == 3
    assert len(load(tmp_path, frames_per_step=2)) == 1  # 5 frames
    with pytest.raises(ValueError, match=r"clip_frames=5: expected 1 \+ 8K .*: 1, 9, 17"):
        load(tmp_path, clip_frames=5, frames_per_step=8)


def write_mjpeg(path: Path, *sides: int) -> None:
    """An AVI of one JPEG frame a side, of a header that says the first."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = sides[0]
        stream.pix_fmt = "yuvj420p"
        for place, side in enumerate(sides):
            encoder: Any = av.CodecContext.create("mjpeg", "w")
            encoder.width = encoder.height = side
            encoder.pix_fmt, encoder.time_base = "yuvj420p", stream.time_base or Fraction(1, 10)
            for packet in encoder.encode(av.VideoFrame.from_image(frame(place).resize((side, side)))):
                packet.stream, packet.pts, packet.dts = stream, place, place
                container.mux(packet)


def test_a_video_of_huge_frames_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 64 - 1)
    for name, *sides in (("fine", *[32] * 5), ("all", *[64] * 5), ("last", *[32] * 4, 64)):
        write_mjpeg(tmp_path / f"{name}.avi", *sides)
    everything, fine, last = load(tmp_path, clip_frames=5)
    assert len(reds(fine)) == 5
    assert isinstance(everything, Skipped)
    assert (everything.cause, "more than 4,095" in everything.detail) == ("too_large", True)
    assert isinstance(last, Skipped)
