"""Image files as people have them: every kind is read right, or refused in one line that names it."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from theworld.model.image_processing_world import to_pil


def gradient() -> np.ndarray:
    return np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(gradient().astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(np.asarray(to_pil(tmp_path / "deep.png"))[..., 0], gradient())


def test_data_urls_are_read() -> None:
    file = BytesIO()
    Image.fromarray(gradient()).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    assert np.array_equal(np.asarray(to_pil(url))[..., 0], gradient())


def test_an_address_that_refuses() -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9.*cannot be fetched"):
        to_pil("http://127.0.0.1:9/picture.png")


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(gradient()).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"bomb.png: the image is too large"):
        to_pil(tmp_path / "bomb.png")


def test_a_file_cut_in_its_header(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:20])
    with pytest.raises(ValueError, match=r"cut.png"):
        to_pil(tmp_path / "cut.png")


def test_a_folder_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a folder, not an image file"):
        to_pil(tmp_path)
