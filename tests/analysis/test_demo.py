"""The demo: what the page shows is what the model says, errors are messages, and nothing leaves the machine."""

import os
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import EpsImagePlugin, Image

from theworld import TheWorld
from theworld.analysis import explain_plots
from theworld.analysis.animate import enlarge
from theworld.analysis.demo import page as page_module
from theworld.analysis.demo.answers import Scene, animation, answer_twice, attention_page
from theworld.analysis.demo.page import Asking, build_page
from theworld.analysis.demo.server import hosts_of, serve
from theworld.analysis.explain import explain
from theworld.analysis.imagine import imagine
from theworld.nano.examples import EXAMPLES, FOLDER, load_example

SCENES = [Scene(name, **vars(load_example(name))) for name in EXAMPLES]
STACK = SCENES[EXAMPLES.index("stack")]
STEPS, FRAMES = 3, 13


@pytest.fixture(scope="module")
def nano() -> TheWorld:
    return TheWorld.from_pretrained("nano")


def test_answers_come_one_after_the_other_and_are_those_of_ask(nano: TheWorld) -> None:
    shown = list(answer_twice(nano, STACK.image, STACK.question, STEPS))
    assert [(s.plain is not None, s.world is not None, len(s.frames), s.attention is not None) for s in shown] == [
        (True, False, 0, False),
        (True, True, 0, False),
        (True, True, FRAMES, False),
        (True, True, FRAMES, True),
    ]
    assert shown[-1].plain == nano.ask(STACK.image, STACK.question, use_world=False)
    assert shown[-1].world == nano.ask(STACK.image, STACK.question) == STACK.answer
    assert shown[-1].plain != shown[-1].world
    assert [frame.tobytes() for frame in shown[-1].frames] == [frame.tobytes() for frame in imagine(nano, STACK.image)]


@pytest.mark.parametrize("decodes", [True, False])
def test_frames_stay_unseen_where_the_guardrail_is_missing(
    decodes: bool, nano: TheWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    if decodes:
        monkeypatch.setattr(explain_plots, "can_show", lambda *_: False)
    else:
        monkeypatch.setattr(type(nano.model.world_encoder), "can_decode", False)
    monkeypatch.setattr(explain_plots, "decode_frames", lambda *_: pytest.fail("decoded"))
    *_, shown = answer_twice(nano, STACK.image, STACK.question, 1)
    assert shown.frames == []
    assert shown.world
    assert shown.attention


def test_the_page_says_why_it_shows_no_frames(nano: TheWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "No imagined frames are shown"
    assert said not in str(build_page(nano, "nano", SCENES).config)
    monkeypatch.setattr(page_module, "can_show", lambda *_: False)
    assert said in str(build_page(nano, "nano", SCENES).config)
    monkeypatch.setattr(type(nano.model.world_encoder), "can_decode", False)
    assert f"{said}: the world encoder predicts features" in str(build_page(nano, "nano", SCENES).config)


def test_one_frame_is_no_animation() -> None:
    assert animation([STACK.image]) == ""
    assert animation(STACK.clip).startswith('<img class="rollout" alt="the imagined frames')


def ask(nano: TheWorld, image: Path | None, question: str, steps: int = 0) -> tuple:
    *_, values = Asking(nano, SCENES).answer(None if image is None else str(image), question, steps)
    return values


def test_the_truth_is_told_for_an_example_and_its_question_only(nano: TheWorld, tmp_path: Path) -> None:
    enlarge(STACK.image).save(tmp_path / "shown.png")
    STACK.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "own.png")
    assert STACK.answer in ask(nano, tmp_path / "shown.png", STACK.question)[2]
    assert ask(nano, tmp_path / "shown.png", "How many blocks are there?")[2] == ""
    assert ask(nano, tmp_path / "own.png", STACK.question)[2] == ""


def test_mistakes_are_messages_without_paths_or_markup(nano: TheWorld, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    picture = FOLDER / "stack.png"
    mistakes = {
        (None, "What?"): "there is no image: upload one, or pick an example scene",
        (picture, "  "): "the question is empty: ask something about the image",
        (picture, "What is <start_of_image>?"): "&lt;start_of_image&gt;",
        (tmp_path / "broken.png", "What?"): "broken.png: not an image",
    }
    for (image, question), message in mistakes.items():
        with pytest.raises(gr.Error) as caught:
            ask(nano, image, question)
        assert message in caught.value.message
        assert str(tmp_path) not in caught.value.message
    with pytest.raises(gr.Error, match="the question has 1001 characters: at most 1000 are allowed"):
        ask(nano, picture, "?" * 1001)
    with pytest.raises(gr.Error, match="num_world_steps=9"):
        ask(nano, picture, "What?", steps=9)


def test_the_page_opens_with_the_answer_to_the_first_example(nano: TheWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking(nano, SCENES)
    *_, first = asking.open()
    assert first[1] == nano.ask(SCENES[0].image, SCENES[0].question)
    assert SCENES[0].answer in first[2]
    monkeypatch.setattr(page_module, "answer_twice", lambda *_: pytest.fail("asked again"))
    (again,) = asking.open()
    assert again[:3] == first[:3]
    page = build_page(nano, "nano", SCENES)
    opened, asked = (next(one for one in page.fns.values() if one.name == name) for name in ("open", "answer"))
    assert opened.outputs == asked.outputs
    assert [opened._id] in [one.cancels for one in page.fns.values() if one.targets == asked.targets]


def test_attention_is_text_and_images(nano: TheWorld) -> None:
    explained = explain(nano, STACK.image, "<b>What</b> will fall?", num_world_steps=1)
    shown = attention_page(replace(explained, answer="<i>"), [STACK.image] * 2)
    assert shown.count("<figure><img") == 2
    assert shown.count('class="layer"') == len(explained.sliding)
    assert f"step +1: {100 * explained.world_attention()[1].sum():.1f} %" in shown
    assert "<strong>&lt;i&gt;</strong>" in shown


@pytest.fixture(scope="module")
def address(nano: TheWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        page = build_page(nano, "nano", SCENES)
        yield serve(page, port=0)
        page.close(verbose=False)


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False, download_files=False)  # each file would take a connection of its own


def test_the_app_answers_through_its_queue(nano: TheWorld, client: Client) -> None:
    plain, world, truth, *_ = client.predict(handle_file(FOLDER / "stack.png"), STACK.question, STEPS, api_name="/ask")
    assert (plain, world) == (nano.ask(STACK.image, STACK.question, use_world=False), STACK.answer)
    assert STACK.answer in truth
    with pytest.raises(AppError, match="the question is empty"):
        client.predict(handle_file(FOLDER / "stack.png"), "", 2, api_name="/ask")


def test_uploads_are_opened_and_fetched_by_the_package_alone(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    STACK.image.save(tmp_path / "photo.eps")
    (tmp_path / "photo.eps").rename(tmp_path / "photo.png")
    (tmp_path / "page.png").write_bytes(b"<html>gone</html>")
    data = b64encode((FOLDER / "stack.png").read_bytes()).decode()
    given: dict[str, Any] = {
        "photo.png: not an image": handle_file(tmp_path / "photo.png"),
        "page.png: not an image": handle_file(tmp_path / "page.png"),
        "only public addresses": {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}},
        "not base64": {"path": None, "url": "data:image/png;base64,???", "meta": {"_type": "gradio.FileData"}},
    }
    for complaint, image in given.items():
        with pytest.raises(AppError, match=complaint):
            client.predict(image, STACK.question, 0, api_name="/ask")
    written = {"path": None, "url": f"data:image/png;base64,{data}", "meta": {"_type": "gradio.FileData"}}
    assert client.predict(written, STACK.question, STEPS, api_name="/ask")[1] == STACK.answer


def test_another_image_clears_the_answer(nano: TheWorld) -> None:
    """And ends a question that is still being answered."""
    page = build_page(nano, "nano", SCENES)
    asked = next(one for one in page.fns.values() if one.api_name == "ask")
    changed = [one for one in page.fns.values() if one.targets[0] == (asked.inputs[0]._id, "change")]
    assert asked.outputs in [one.outputs for one in changed]
    opened = next(one for one in page.fns.values() if one.name == "open")
    assert [asked._id, opened._id] in [one.cancels for one in changed]
    plain, world, truth, *images = Asking(nano, SCENES).clear()
    assert (plain, world, truth) == (None, None, "")
    assert not any(image.visible for image in images)


def test_the_page_says_when_a_model_knows_simulated_scenes_alone(
    nano: TheWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "This model was trained only on simulated scenes"
    assert said in str(build_page(nano, "nano", SCENES).config)
    monkeypatch.setattr(nano.config, "gemma_model_name", "google/gemma-3-4b-it")
    assert said not in str(build_page(nano, "runs/a", SCENES).config)


def test_names_are_shown_as_they_are(nano: TheWorld) -> None:
    lead = next(
        one.value for one in build_page(nano, "<img src=x>_[a](b)_", SCENES).blocks.values() if one.elem_id == "lead"
    )
    assert "**&lt;img src=x&gt;\\_\\[a\\](b)\\_**" in lead


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example"])
def test_foreign_hosts_are_refused(address: str, host: str) -> None:
    """A web site whose name is made to resolve to this machine cannot read the page."""
    for own in ("localhost:7860", "127.0.0.1", "[::1]:7860"):
        with urlopen(Request(address, headers={"Host": own})) as answer:
            assert answer.status == 200
    with pytest.raises(HTTPError, match="400"):
        urlopen(Request(address, headers={"Host": host}))


def test_an_open_address_takes_any_name() -> None:
    assert hosts_of("0.0.0.0") == ["*"]
    assert "*" not in hosts_of("127.0.0.2")


def test_a_long_strip_is_not_enlarged(nano: TheWorld) -> None:
    strip = Image.new("RGB", (2**20, 1))  # a side of 256 pixels would take 2**36
    assert Asking(nano, SCENES).scene_of(strip) is None
    assert Asking(nano, SCENES).scene_of(enlarge(STACK.image)) is STACK


def test_the_page_is_served_on_loopback_alone_and_loads_nothing_from_elsewhere(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    with urlopen(address) as answer:
        policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_a_port_in_use_is_said(nano: TheWorld, address: str) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1, port {port}: the port is in use"):
        serve(build_page(nano, "nano", SCENES), port=port)
