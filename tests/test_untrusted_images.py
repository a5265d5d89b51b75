"""Every way into the package opens images by `theworld.utils.images` alone: the same limits, the same one line."""

import ast
import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gradio import Error
from PIL import EpsImagePlugin, Image

import theworld
from tests.utils.test_images import DATA, encoded, png
from theworld import TheWorld
from theworld.analysis.conversation import Conversation
from theworld.analysis.demo.page import Asking
from theworld.cli.chat import talk
from theworld.cli.main import main
from theworld.data.collator import TheWorldCollator
from theworld.data.schema import Example, Message, Skipped
from theworld.evaluation.ask.prompts import PromptBuilder
from theworld.evaluation.store.predictions import Item
from theworld.nano.examples import FOLDER
from theworld.serving.requests import read_messages
from theworld.training.align import AlignCollator
from theworld.utils import image_decoding

ROOT = Path(theworld.__file__).parent
PRIVATE = "http://127.0.0.1:9/a.png"
MODEL: Any = SimpleNamespace(config=SimpleNamespace(enable_world=True, num_world_steps=1), as_text=str)


@pytest.fixture(scope="module")
def nano() -> TheWorld:
    return TheWorld.from_pretrained("nano")


def command(name: str, *before: str, after: tuple[str, ...] = ()) -> Callable[..., str]:
    def run(image: str, capsys: pytest.CaptureFixture[str], **_: Any) -> str:
        assert main([name, *before, image, *after]) == 2
        return capsys.readouterr().err.removeprefix("theworld: error: ").rstrip("\n")

    return run


def chat(image: str, capsys: pytest.CaptureFixture[str], **_: Any) -> str:
    talk(Conversation(MODEL), [f"/image {image}"], 1)
    return capsys.readouterr().err.removeprefix("error: ").rstrip("\n")


def demo(image: str, **_: Any) -> str:
    with pytest.raises(Error) as refused:
        list(Asking(MODEL, []).answer(image, "What?", 1))
    return refused.value.message


def serve(image: str, **_: Any) -> str:
    if not image.startswith("http"):
        image = "data:image/png;base64," + base64.b64encode(Path(image).read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": image}}]
    with pytest.raises(ValueError, match="image") as refused:
        read_messages([{"role": "user", "content": content}], MODEL, max_images=1)
    return str(refused.value)


def training(image: str, nano: TheWorld, **_: Any) -> str:
    turns = (Message("user", "What?"), Message("assistant", "A ball."))
    return skipped(TheWorldCollator(nano.processor)([Example("a", turns, (image,))]))


def alignment(image: str, nano: TheWorld, **_: Any) -> str:
    clip = Example("a", (), (), clip=(image,))
    return skipped(AlignCollator(nano.processor, num_world_steps=0)([clip]))


def skipped(batch: dict[str, Any]) -> str:
    (row,) = cast(list[Skipped], batch["skipped"])
    return row.detail


def evaluation(image: str, nano: TheWorld, **_: Any) -> str:
    batch, failed = PromptBuilder(nano, 1).build([Item("a", (Message("user", "What?"),), (image,), "red")])
    assert batch is None
    return failed["a"]


URL_READERS = {
    "ask": command("ask", after=("What?",)),
    "ask --explain": command("ask", after=("What?", "--explain", "why.png")),
    "imagine": command("imagine"),
    "align": command("align", "--images"),
    "chat": chat,
    "demo": demo,
    "serve": serve,
}
FILE_READERS = {"training": training, "alignment": alignment, "evaluation": evaluation}
WAYS = URL_READERS | FILE_READERS
FILES = {
    "too large": png(13_000, 13_000),
    "damaged": DATA[:-200],
    "not an image": encoded(Image.new("RGB", (16, 16)), "EPS"),
}


@pytest.fixture
def refusal(
    nano: TheWorld, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], str]:
    monkeypatch.setattr("theworld.cli.loading.load_model", lambda *_, **__: pytest.fail("loaded a model"))
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))

    def ask(way: str, image: str) -> str:
        message = WAYS[way](image, nano=nano, capsys=capsys)
        assert len(message.splitlines()) == 1
        return message

    return ask


@pytest.mark.parametrize("way", WAYS)
def test_files(way: str, tmp_path: Path, refusal: Callable[[str, str], str]) -> None:
    for complaint, data in FILES.items():
        (tmp_path / "photo.png").write_bytes(data)
        assert complaint in refusal(way, str(tmp_path / "photo.png"))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "serve"])
def test_what_is_no_file(
    way: str, tmp_path: Path, refusal: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    monkeypatch.setattr(Path, "open", lambda *_, **__: pytest.fail("it was opened"))
    assert "a special file" in refusal(way, str(tmp_path / "pipe.png"))
    assert "a special file" in refusal(way, "/dev/zero")
    assert "a folder" in refusal(way, str(tmp_path))


@pytest.mark.parametrize("way", WAYS)
def test_urls(way: str, refusal: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL in a dataset is a file that is not there; elsewhere only public addresses are asked."""
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("a connection was made"))
    assert ("only public addresses" if way in URL_READERS else "no such image file") in refusal(way, PRIVATE)


@pytest.mark.parametrize("options", [["ask", "What?"], ["ask", "What?", "--explain", "why.png"], ["imagine"]])
def test_a_command_converts_its_image_once(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, converted = image_decoding.open_header, image_decoding._converted
    counts = {"headers": 0, "pixels": 0}

    def count(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            counts[name] += 1
            return function(*args)

        return counted

    monkeypatch.setattr("theworld.utils.images.open_header", count("headers", opened))
    monkeypatch.setattr(image_decoding, "_converted", count("pixels", converted))
    monkeypatch.chdir(tmp_path)
    assert main([options[0], str(FOLDER / "stack.png"), *options[1:]]) == 0
    assert counts == {"headers": 1, "pixels": 1}


def test_the_images_of_a_request_are_limited_together(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Image.open(io.BytesIO(DATA)).width
    monkeypatch.setattr("theworld.serving.requests.MAX_PIXELS_TOGETHER", 2 * side * side)
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(DATA).decode()}}
    turn = {"role": "user", "content": [part]}
    assert len(read_messages([turn, turn], MODEL, max_images=9)) == 2
    with pytest.raises(ValueError, match=r"more than 512 pixels together: scale them down or give fewer"):
        read_messages([turn, {"role": "user", "content": [part, part]}], MODEL, max_images=9)


def test_no_other_module_opens_images_or_urls() -> None:
    """PIL's `open` picks any plugin, and other clients of the web know none of the limits."""
    clients = {"requests", "urllib.request", "httpx", "aiohttp", "urllib3", "http.client", "imageio", "cv2"}
    found: set[str] = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            opens = isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open")
            if opens or clients & set(names) or {"load_image", "load_images", "urlopen"} & set(names):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == {"utils/image_decoding.py"}
