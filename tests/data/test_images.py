"""Pictures as strangers leave them: read right, or refused with the cause that the run counts by."""

import os
import random
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from theworld.data import images
from theworld.data.images import open_image
from theworld.data.schema import BadSample
from theworld.utils import image_decoding

SIDE = 32


def picture(mode: str = "RGB") -> Image.Image:
    """Left half dark, right half bright."""
    values = np.full((SIDE, SIDE), 40, dtype=np.uint8)
    values[:, SIDE // 2 :] = 200
    return Image.fromarray(values).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def cause(source: Any, folder: Path | None = None) -> str:
    with pytest.raises(BadSample) as error:
        open_image(source, folder)
    assert error.value.detail
    assert "\n" not in error.value.detail
    return error.value.cause


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    source = picture("L").point(lambda value: 0 if value < 128 else 255)
    converted = source.convert(mode)
    # Pillow 12 cannot read the YCbCr file that it writes
    opened = open_image(converted if mode == "YCbCr" else encoded(converted, "TIFF" if mode == "CMYK" else "PNG"))
    assert opened.mode == "RGB"
    assert np.abs(np.asarray(opened)[..., 0].astype(int) - np.asarray(source)).max() <= 2


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    wanted = (deep // 257).astype(np.uint8)
    for opened in (open_image("deep.png", tmp_path), open_image(deep)):
        assert np.array_equal(np.asarray(opened)[..., 0], wanted)
    assert np.array_equal(np.asarray(open_image(np.stack([deep] * 3, axis=-1)))[..., 2], wanted)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    clear = Image.new(mode, (SIDE, SIDE), 0)
    data = encoded(clear, transparency=0) if mode == "P" else encoded(clear)
    assert open_image(data).getpixel((0, 0)) == (255, 255, 255)


def test_exif_turns_the_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: left becomes top
    opened = np.asarray(open_image(encoded(picture(), "JPEG", exif=exif, quality=95)))
    assert opened[2, SIDE // 2, 0] < 60
    assert opened[-2, SIDE // 2, 0] > 180


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    red, _, blue = np.asarray(open_image(data))[5, 5]
    assert red > 200
    assert blue < 50


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (SIDE, SIDE, 1), (SIDE, SIDE, 3), (SIDE, SIDE, 4)])
def test_arrays(shape: tuple[int, ...]) -> None:
    assert np.asarray(open_image(np.full(shape, 255, dtype=np.uint8))).min() == 255


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((SIDE, SIDE, 3)),
        np.zeros((SIDE, SIDE, 2), dtype=np.uint8),
        np.zeros((2, SIDE, SIDE, 3), dtype=np.uint8),
        np.zeros(SIDE, dtype=np.uint8),
    ],
)
def test_arrays_of_other_shapes_and_types(values: np.ndarray[Any, Any]) -> None:
    assert cause(values) == "not_an_image"


def test_the_ways_to_name_a_picture(tmp_path: Path) -> None:
    data = encoded(picture())
    (tmp_path / "a.jpg").write_bytes(data)  # a PNG: the content decides, not the name
    sources = [
        ("a.jpg", tmp_path),
        (Path("a.jpg"), tmp_path),
        (str(tmp_path / "a.jpg"), tmp_path),
        (tmp_path / "a.jpg", None),
        (data, None),
        ({"bytes": data, "path": "elsewhere.png"}, tmp_path),
        ({"bytes": None, "path": "a.jpg"}, tmp_path),
        (picture(), None),
        (np.asarray(picture()), None),
    ]
    for source, folder in sources:
        assert open_image(source, folder).tobytes() == picture().tobytes()


def test_names_that_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(picture()))
    (tmp_path / "pictures-too").mkdir()
    (tmp_path / "pictures-too" / "a.png").write_bytes(encoded(picture()))
    for name in (
        "../secret.png",
        str(tmp_path / "secret.png"),
        "a/../../secret.png",
        "../pictures-too/a.png",
    ):
        assert cause(name, folder) == "outside_folder"
    assert cause({"bytes": None, "path": "../secret.png"}, folder) == "outside_folder"


def test_a_folder_reached_by_a_link_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.png").write_bytes(encoded(picture()))
    (tmp_path / "pictures").symlink_to(tmp_path / "disk")
    assert open_image("a.png", tmp_path / "pictures").size == (SIDE, SIDE)


def test_a_folder_of_links_is_read(tmp_path: Path) -> None:
    """As a snapshot of the Hub: its files are links to `../../blobs`."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0a1b").write_bytes(encoded(picture()))
    folder = tmp_path / "snapshots" / "main"
    folder.mkdir(parents=True)
    (folder / "a.png").symlink_to(Path("../../blobs/0a1b"))
    (folder / "images").symlink_to(Path("../../blobs"))
    for name in ("a.png", "images/0a1b", str(folder / "a.png")):
        assert open_image(name, folder).size == (SIDE, SIDE)
    for name in ("images/../../a.png", "../../blobs/0a1b", str(tmp_path / "blobs" / "0a1b")):
        assert cause(name, folder) == "outside_folder"


def test_what_is_not_there_or_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("none.png", "", ".", "pipe.png", "loop.png", "a\0b.png", "x" * 5000, "http://127.0.0.1:9/a.png"):
        assert cause(name, tmp_path) == "missing"
    assert cause("/dev/zero") == "missing"


@pytest.mark.parametrize(
    "data", [b"<html>not found</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", b"x"]
)
def test_files_that_are_no_pictures(data: bytes) -> None:
    assert cause(data) == "not_an_image"


@pytest.mark.parametrize("source", [None, 3, {"bytes": None, "path": None}, {}, ["a.png"]])
def test_things_that_are_no_pictures(source: Any) -> None:
    assert cause(source) == "not_an_image"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_cut_files(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    assert cause(data[: len(data) * 3 // 5]) in ("truncated", "not_an_image")
    assert cause(b"") == "not_an_image"


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture())
    (tmp_path / "a.png").write_bytes(data)
    assert cause(Image.new("L", (images.MIN_SIDE - 1, 500))) == "tiny"
    monkeypatch.setattr(image_decoding, "MAX_PIXELS", SIDE * SIDE - 1)
    assert cause(data) == "too_large"
    monkeypatch.setattr(image_decoding, "MAX_BYTES", len(data) - 1)
    assert cause(data) == "too_large"
    assert cause("a.png", tmp_path) == "too_large"


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    bomb = bytearray(encoded(Image.new("1", (SIDE, SIDE)), "BMP"))
    for side in (9000, 2**16):
        bomb[18:26] = side.to_bytes(4, "little") * 2
        assert cause(bytes(bomb)) == "too_large"


def test_floats_have_no_range() -> None:
    assert cause(Image.new("F", (SIDE, SIDE))) == "not_an_image"


def test_damage_of_any_kind_is_a_bad_sample() -> None:
    """Flipped bytes reach every corner of the decoders; whatever they raise must have become a cause."""
    shuffle = random.Random(0)
    kinds = ["PNG", "JPEG", "GIF", "WEBP", "BMP"]
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in range(300):
        data = bytearray(encoded(picture(), kinds[number % len(kinds)], exif=exif))
        for _ in range(shuffle.choice([1, 5, 20])):
            data[shuffle.randrange(len(data))] = shuffle.randrange(256)
        try:
            assert open_image(bytes(data)).mode == "RGB"
        except BadSample:
            continue
