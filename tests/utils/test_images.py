"""Every accepted form of an image gives the same pixels; everything else is refused in one line, within the limits."""

import base64
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from tests.web import Web, serving
from theworld.utils import image_decoding, images, public_http
from theworld.utils.image_decoding import MAX_PIXELS, ImageError, open_header, to_rgb
from theworld.utils.images import flatten_images, open_image
from theworld.utils.public_http import FetchError

SIDE = 16
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
PNG_HEADER = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


DATA = encoded(Image.fromarray(PIXELS))
TEXT = base64.b64encode(DATA).decode()
URI = f"data:image/png;base64,{TEXT}"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int = 16, body: bytes = b"") -> bytes:
    """A grey PNG of this size, whose pixels are `body`."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return PNG_HEADER + header + chunk(b"IDAT", zlib.compress(body, 9)) + chunk(b"IEND", b"")


def refusal(image: Any, error: type[Exception] = ImageError) -> str:
    with pytest.raises(error) as refused:
        open_image(image)
    message = str(refused.value)
    assert message
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(DATA)
    return tmp_path / "a.png"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server whose address counts as public."""
    real = public_http.is_public
    monkeypatch.setattr(public_http, "is_public", lambda address: address == "127.0.0.1" or real(address))
    with serving(DATA) as server:
        yield server


# ---------------------------------------------------------------------------------------------------------- forms

TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)
IN_MEMORY = {
    "PIL": Image.fromarray(PIXELS),
    "undecoded PIL": Image.open(BytesIO(DATA)),
    "uint8 array": PIXELS,
    "uint16 array": PIXELS.astype(np.uint16) * 257,
    "uint8 tensor": TENSOR,
    "float tensor": TENSOR / 255,
    "float64 tensor": TENSOR.double() / 255,
    "tensor with a gradient": (TENSOR / 255).requires_grad_(),
    "bytes": DATA,
    "bytearray": bytearray(DATA),
    "HF bytes": {"bytes": DATA, "path": "elsewhere.png"},
    "base64": TEXT,
    "base64 in lines": "\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)),
    "base64 without padding": TEXT.rstrip("="),
    "data URI": URI,
    "data URI, percent-encoded": URI.replace("+", "%2B").replace("/", "%2F").replace("image%2Fpng", "image/png"),
    "content image": {"type": "image", "image": Image.fromarray(PIXELS)},
    "content image of bytes": {"type": "image", "image": {"bytes": DATA, "path": None}},
    "content url": {"type": "image", "url": URI, "path": None},
    "content url of PIL": {"type": "image", "url": Image.fromarray(PIXELS)},
    "content base64": {"type": "image", "base64": TEXT},
    "content image_url": {"type": "image_url", "image_url": {"url": URI, "detail": "auto"}},
    "content image_url as text": {"type": "image_url", "image_url": URI},
}


@pytest.mark.parametrize("form", IN_MEMORY)
def test_forms_in_memory(form: str) -> None:
    opened = open_image(IN_MEMORY[form])
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), PIXELS)


def test_forms_of_files(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    contents = [{"type": "image", key: value} for key, value in (("path", str(file)), ("path", file), ("image", file))]
    contents.append({"bytes": None, "path": "a.png"})
    for form in (file, str(file), "a.png", Path("a.png"), *contents):
        assert np.array_equal(np.asarray(open_image(form)), PIXELS)


def test_forms_of_urls(web: Web) -> None:
    url = f"{web.url}/a.png"
    for form in (
        *(url, url.replace("http", "HTTP"), {"type": "image", "url": url}, {"type": "image", "image": url}),
        {"type": "image_url", "image_url": {"url": url}},
    ):
        assert np.array_equal(np.asarray(open_image(form)), PIXELS)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_tensors_and_arrays(channels: int) -> None:
    tensor = torch.full((channels, SIDE, SIDE), 255, dtype=torch.uint8)
    for form in (tensor, tensor / 255, tensor.permute(1, 2, 0).numpy(), tensor[0].numpy()):
        assert np.asarray(open_image(form)).min() == 255


def test_nested_and_batched_images_become_one_list() -> None:
    batch = TENSOR[None].repeat(2, 1, 1, 1) / 255
    nested = [PIXELS, [batch, (DATA, [])], np.stack([PIXELS] * 2), {"bytes": DATA, "path": None}, None]
    flat = flatten_images(nested)
    assert len(flat) == 7
    assert all(np.array_equal(np.asarray(image), PIXELS) for image in flat)
    assert flatten_images(None) == []


def test_rgb_in_memory_is_not_converted_again() -> None:
    opened = open_image(DATA)
    assert open_image(opened) is opened
    assert flatten_images([opened])[0] is opened


# --------------------------------------------------------------------------------------------------------- pixels


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    wide = Image.fromarray(deep.astype(np.int32))  # mode I
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for form in (tmp_path / "deep.png", deep, wide, np.stack([deep] * 3, axis=-1)):
        assert np.array_equal(np.asarray(open_image(form))[..., 0], deep // 257)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF"])
def test_transparency_is_laid_over_white(kind: str) -> None:
    opened = open_image(encoded(Image.new("RGBA", (SIDE, SIDE), (200, 0, 0, 0)), kind))
    assert opened.getpixel((0, 0)) == (255, 255, 255)


def test_an_image_in_memory_is_turned_upright_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(BytesIO(encoded(Image.fromarray(PIXELS), exif=exif)))
    turned.load()
    for form in (turned, turned.copy()):
        opened = open_image(form)
        assert np.array_equal(np.asarray(opened), np.rot90(PIXELS, -1))
        assert open_image(opened) is opened


def test_photos_of_phones_with_several_images_in_one_file() -> None:
    photo = Image.fromarray(PIXELS)
    assert open_image(encoded(photo, "MPO", save_all=True, append_images=[photo])).size == (SIDE, SIDE)


# ------------------------------------------------------------------------------------------------------- refusals


def test_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("absent.png", "a\0b.png", "x" * 5000, "abcd" * 20, "ab" * 32, "two\nlines.png", "file:///etc/hosts"):
        assert "no such image file" in refusal(name, FileNotFoundError)
    assert "no such image file" in refusal({"type": "image", "path": URI}, FileNotFoundError)


@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_special_files_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("it was opened"))
    assert "a special file, not an image file" in refusal(tmp_path / name, FileNotFoundError)
    assert "a folder, not an image file" in refusal(tmp_path, FileNotFoundError)


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (None, "type NoneType"),
        (7, "type int"),
        ({}, "no keys"),
        ({"type": "image"}, "with type: expected one of image,"),
        ({"bytes": None, "path": None}, "expected one of"),
        ({"type": "image", "url": "/etc/hosts"}, "not a URL"),
        ({"type": "image_url", "image_url": {"url": "a.png"}}, "not a URL"),
        ({"type": "image_url", "image_url": {"detail": "low"}}, "image_url"),
        ({"type": "image", "base64": "not base64!"}, "'base64'"),
        ({"type": "image", "bytes": "text"}, "'bytes'"),
        ("data:image/png;base64,???", "not base64"),
        ("data:,hello", "not an image"),
        (b"", "not an image"),
        (b"<html>gone</html>", "not an image"),
        (DATA[:20], "the image"),
        (base64.b64encode(DATA[:60]).decode(), "damaged"),
        (Image.new("F", (4, 4)), "floats have no fixed range"),
        (np.zeros((4, 4, 3)), "float64: expected uint8"),
        (np.zeros((4, 4, 3), dtype=np.int64), "int64: expected uint8"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "no pixels"),
        (torch.zeros(3, 4, 0), "no pixels"),
        (torch.zeros(2, 4, 4), r"(2, 4, 4): expected (3, H, W)"),
        (torch.full((3, 4, 4), 2.0), "[2, 2]: expected [0, 1]"),
        (torch.full((3, 4, 4), torch.nan), "expected [0, 1]"),
    ],
)
def test_what_is_no_image(image: Any, complaint: str) -> None:
    assert complaint in refusal(image)


def test_damage_names_the_file(file: Path) -> None:
    file.write_bytes(DATA[:-200])
    assert refusal(file).startswith(f"{file}: the image is damaged (")


@pytest.mark.parametrize("raised", [SyntaxError, NotImplementedError, RuntimeError, struct.error, zlib.error, EOFError])
def test_whatever_a_decoder_raises_is_one_error(monkeypatch: pytest.MonkeyPatch, raised: type[Exception]) -> None:
    def fail(*_: Any) -> None:
        raise raised("two\nlines")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert "the image is damaged (two lines)" in refusal(DATA)


def test_flipped_bytes_give_an_image_or_one_error() -> None:
    shuffle = random.Random(0)
    kinds = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"]
    whole = {kind: encoded(Image.fromarray(PIXELS), kind) for kind in kinds}
    for number in range(270):
        data = bytearray(whole[kinds[number % len(kinds)]])
        for _ in range(shuffle.choice([1, 5, 20])):
            data[shuffle.randrange(len(data))] = shuffle.randrange(256)
        try:
            assert open_image(bytes(data)).mode == "RGB"
        except ImageError:
            continue


def test_no_format_starts_another_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    eps = encoded(Image.fromarray(PIXELS), "EPS")
    (tmp_path / "photo.png").write_bytes(eps)
    for form in (eps, tmp_path / "photo.png", base64.b64encode(eps).decode()):
        error = FileNotFoundError if isinstance(form, str) else ImageError
        refusal(form, error)
    assert "EPS" in refusal(Image.open(BytesIO(eps)))


def test_errors_pass_between_processes() -> None:
    for error in (ImageError("truncated", "a.png: damaged"), FetchError("timeout", "not complete after 5 s")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.cause, str(copy)) == (type(error), error.cause, error.detail)


def test_urls_that_cannot_be_fetched(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "URL_TIMEOUT", 0.4)
    assert "status 404" in refusal(f"{web.url}/status-404")
    assert "not an image" in refusal(f"{web.url}/page")
    assert "not complete after 0.4 s" in refusal(f"{web.url}/drip")
    monkeypatch.setattr(images, "MAX_BYTES", 100_000)
    assert "more than 100,000 bytes" in refusal(f"{web.url}/endless")


def test_urls_of_private_addresses_are_not_asked() -> None:
    for url in ("http://127.0.0.1:9/a.png", "http://169.254.169.254/latest", "https://[::1]/a.png"):
        for form in (url, {"type": "image_url", "image_url": {"url": url}}):
            assert "only public addresses" in refusal(form)


# --------------------------------------------------------------------------------------------------------- limits


def test_the_number_of_pixels_is_read_from_the_header() -> None:
    tracemalloc.start()
    message = refusal(png(13_000, 13_000))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert "13000 x 13000" in message
    assert f"{MAX_PIXELS:,}" in message
    assert open_header(png(8192, 8192)).size == (8192, 8192)


def test_large_arrays_and_tensors_are_refused_without_a_copy() -> None:
    wide = np.broadcast_to(np.uint16(0), (9000, 9000, 3))
    assert "9000 x 9000" in refusal(wide)
    assert "9000 x 9000" in refusal(torch.zeros(1).expand(3, 9000, 9000))
    assert "9000 x 9000" in refusal(Image.new("1", (9000, 9000)))


def test_the_size_of_files_is_limited(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_decoding, "MAX_BYTES", len(DATA) - 1)
    for form in (file, DATA, URI, TEXT):
        assert "bytes; scale the image down" in refusal(form)


def test_pil_s_own_limit_is_the_same_error(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert refusal(file).startswith(f"{file}: the image is too large (")


MEASURED = """
import resource, sys
from PIL import Image
from theworld.utils.images import open_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert open_image(sys.argv[1]).size == (8192, 8192)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_the_largest_image_in_16_bits_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(png(8192, 8192, body=bytes(8192 * (1 + 2 * 8192))))
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "deep.png")]
    mebibytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert mebibytes < 1024


def test_to_rgb_names_what_it_was_given() -> None:
    with pytest.raises(ImageError, match=r"^frame 3: the image has no pixels"):
        to_rgb(Image.new("RGB", (0, 4)), "frame 3")
