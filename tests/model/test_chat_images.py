"""Images of chat messages: every form gives both image paths the same pixels, and is opened once."""

import base64
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.web import serving
from theworld import TheWorld
from theworld.utils import image_decoding, public_http


@pytest.fixture
def data(images: list[Image.Image]) -> bytes:
    file = BytesIO()
    images[0].save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def web_url(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(public_http, "is_public", lambda _: True)
    with serving(data) as server:
        yield f"{server.url}/a.png"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a header was read, and pixels were brought to RGB."""
    counts = {"headers": 0, "pixels": 0}
    opened, converted = Image.open, image_decoding._converted

    def count_header(*args: Any, **options: Any) -> Image.Image:
        counts["headers"] += 1
        return opened(*args, **options)

    def count_pixels(image: Image.Image) -> Image.Image:
        counts["pixels"] += 1
        return converted(image)

    monkeypatch.setattr(Image, "open", count_header)
    monkeypatch.setattr(image_decoding, "_converted", count_pixels)
    return counts


def encode(world: TheWorld, *contents: Any) -> Any:
    turn = {"role": "user", "content": [*contents, {"type": "text", "text": "What?"}]}
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return world.processor.apply_chat_template([turn], **options)


def test_every_form_gives_the_same_inputs(
    world: TheWorld, images: list[Image.Image], data: bytes, web_url: str, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    uri = f"data:image/png;base64,{text}"
    nothing = dict.fromkeys(("image", "url", "path", "base64", "text"))
    expected = encode(world, {"type": "image", "image": images[0]})
    forms: list[dict[str, Any]] = [
        *(
            {"type": "image", "image": value}
            for value in (data, {"bytes": data, "path": None}, uri, np.array(images[0]))
        ),
        {"type": "image", "url": web_url},
        {"type": "image", "url": uri},
        {"type": "image", "path": str(tmp_path / "a.png")},
        {"type": "image", "base64": text},
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "image_url", "image_url": {"url": web_url, "detail": "auto"}},
        {**nothing, "type": "image", "path": str(tmp_path / "a.png")},  # as Arrow tables fill what a row lacks
        {"type": "image", "image": images[0], "path": "a/name.png"},  # one image, not two
    ]
    for form in forms:
        ours = encode(world, form)
        assert all(torch.equal(ours[name], expected[name]) for name in expected), form


def test_several_images_and_prompts(world: TheWorld, images: list[Image.Image], data: bytes) -> None:
    uri = "data:image/png;base64," + base64.b64encode(data).decode()

    def turns(first: Any, *others: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [first, {"type": "text", "text": "And?"}, *others]}]

    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "processor_kwargs": {"padding": True}}
    given = [{"type": "image", "image": image} for image in images[:2]]
    written = {"type": "image_url", "image_url": {"url": uri}}
    expected = world.processor.apply_chat_template([turns(given[0], given[1]), turns(given[0])], **options)
    ours = world.processor.apply_chat_template([turns(written, given[1]), turns(written)], **options)
    assert ours["world_pixel_values"].shape[0] == 3
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_messages_are_left_as_they_were(world: TheWorld, data: bytes) -> None:
    content = {"type": "image", "image": data}
    turn = {"role": "user", "content": [content, {"type": "text", "text": "What?"}]}
    world.processor.apply_chat_template([turn], tokenize=True)
    assert turn["content"][0] is content
    assert content == {"type": "image", "image": data}
    prompt = world.processor.apply_chat_template([{"role": "user", "content": [{"type": "image", "path": "absent"}]}])
    assert world.processor.boi_token in prompt  # text alone opens no file


def test_images_beside_the_messages(world: TheWorld, images: list[Image.Image], data: bytes) -> None:
    turn = {"role": "user", "content": [{"type": "image", "image": None}, {"type": "text", "text": "What?"}]}
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    ours = world.processor.apply_chat_template([turn], processor_kwargs={"images": [data]}, **options)
    expected = encode(world, {"type": "image", "image": images[0]})
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_refused_image_is_one_line(world: TheWorld, data: bytes) -> None:
    for form, complaint in (
        ({"type": "image", "url": "http://127.0.0.1:9/a.png"}, "only public addresses"),
        ({"type": "image_url", "image_url": {"url": "/etc/hosts"}}, "not a URL"),
        ({"type": "image", "base64": base64.b64encode(data[:100]).decode()}, "damaged"),
    ):
        with pytest.raises(ValueError, match=complaint) as refused:
            encode(world, form)
        assert len(str(refused.value).splitlines()) == 1


def test_one_ask_converts_an_image_once(
    world: TheWorld, data: bytes, tmp_path: Path, conversions: dict[str, int]
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    world.ask(tmp_path / "a.png", "What?", max_new_tokens=1)
    assert conversions == {"headers": 1, "pixels": 1}


def test_one_call_of_the_processor_converts_an_image_once(
    world: TheWorld, data: bytes, conversions: dict[str, int]
) -> None:
    encode(world, {"type": "image", "image": data})
    assert conversions == {"headers": 1, "pixels": 1}
    world.processor(text="<start_of_image>", images=data, return_tensors="pt")
    assert conversions == {"headers": 2, "pixels": 2}


def test_both_paths_get_the_same_object(world: TheWorld, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    processor = type(world.processor.image_processor)
    siglip = processor.__call__

    def spy(self: Any, images: Any, **options: Any) -> Any:
        seen.append(images)
        return siglip(self, images, **options)

    monkeypatch.setattr(processor, "__call__", spy)
    world_pixels = world.processor.world_pixels
    monkeypatch.setattr(world.processor, "world_pixels", lambda images: seen.append(images) or world_pixels(images))
    encode(world, {"type": "image", "image": data})
    assert seen[0][0][0] is seen[1][0][0]
