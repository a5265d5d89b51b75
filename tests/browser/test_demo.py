"""The demo in a real browser, clicked through as a person would."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from theworld.nano.examples import EXAMPLES, load_example

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
START, ANSWER = 120, 60_000  # seconds, milliseconds


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("demo") / "stderr"
    command = [sys.executable, "-m", "theworld.cli.main", "demo", "--port", "0"]
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout
    try:
        told = process.stdout.readline().split()  # returns at the end of the process, too
        assert told, log.read_text(encoding="utf-8")
        yield told[0]
    finally:
        process.terminate()
        process.wait(timeout=START)


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """The page in a window of its own; nothing may be asked of another machine."""
    asked: set[str] = set()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("request", lambda request: asked.add(request.url))
        page.goto(address)
        expect(page.locator("#ask")).to_be_visible(timeout=ANSWER)
        yield page
        browser.close()
    assert asked
    elsewhere = {url for url in asked if not url.startswith((address, "data:", "blob:"))}
    assert not elsewhere


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_with_an_answer(page: Page, width: int, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme="dark")
    expect(page.locator("#world textarea")).to_have_value(load_example(EXAMPLES[0]).answer, timeout=ANSWER)
    expect(page.locator("#imagined img")).to_have_count(1 + 12, timeout=ANSWER)
    expect(page.locator("#attention img")).to_have_count(4, timeout=ANSWER)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for film in ("#imagined", "#followed"):
        shown = "wrap => wrap.scrollHeight <= wrap.clientHeight + 1"
        assert page.locator(f"{film} .grid-wrap").evaluate(shown), "the last frames are cut off"
    page.screenshot(path=tmp_path / "opened.png", full_page=True)


def test_an_example_is_asked_and_answered(page: Page, tmp_path: Path) -> None:
    example = load_example("stack")
    question, world, plain = (page.locator(f"#{part} textarea") for part in ("question", "world", "plain"))
    expect(question).to_have_value(load_example(EXAMPLES[0]).question)

    page.get_by_role("button", name="Thumbnail 5 of 5").click()
    expect(question).to_have_value(example.question)
    question.fill("")
    question.type(example.question)
    page.get_by_role("button", name="Ask").click()

    expect(world).to_have_value(example.answer, timeout=ANSWER)
    expect(plain).to_have_value(re.compile(r"\w"))
    assert plain.input_value() != example.answer
    expect(page.locator("#imagined img")).to_have_count(1 + 12, timeout=ANSWER)
    expect(page.locator("#followed img")).to_have_count(1 + 12)
    expect(page.locator("#truth")).to_contain_text(f"Truth: {example.answer}")
    expect(page.locator("#rollout img")).to_be_visible()
    expect(page.locator("#attention img")).to_have_count(4)
    attention = page.locator("#attention img").last
    attention.scroll_into_view_if_needed(timeout=ANSWER)
    assert page.wait_for_function("() => document.querySelector('#attention img').naturalWidth >= 256")
    page.screenshot(path=tmp_path / "answered.png", full_page=True)
    assert (tmp_path / "answered.png").stat().st_size > 50_000


def test_the_slider_says_how_far_to_look(page: Page) -> None:
    page.locator("#steps input[type=number]").fill("1")
    page.locator("#steps input[type=number]").press("Tab")
    page.locator("#question textarea").press("Enter")
    expect(page.locator("#imagined img")).to_have_count(5, timeout=ANSWER)


def test_an_empty_question_is_a_message_and_the_next_one_is_answered(page: Page, tmp_path: Path) -> None:
    page.locator("#question textarea").fill(" ")
    page.get_by_role("button", name="Ask").click()
    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("the question is empty: ask something about the image", timeout=ANSWER)
    page.screenshot(path=tmp_path / "empty.png")
    page.locator("#question textarea").fill("What colour is the ball?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#world textarea")).to_have_value("cyan", timeout=ANSWER)


def test_an_image_of_ones_own(page: Page, tmp_path: Path) -> None:
    load_example("race").image.rotate(180).save(tmp_path / "own.png")
    page.get_by_role("button", name="Remove Image").click()
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("there is no image", timeout=ANSWER)
    page.locator("#image input[type=file]").set_input_files(tmp_path / "own.png")
    expect(page.locator("#image img")).to_be_visible()
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#imagined img")).to_have_count(1 + 12, timeout=ANSWER)
    expect(page.locator("#followed img")).to_have_count(0)


def test_another_image_clears_the_answer(page: Page, tmp_path: Path) -> None:
    expect(page.locator("#simulated")).to_contain_text("was trained only on simulated scenes")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#attention img")).to_have_count(4, timeout=ANSWER)
    page.get_by_role("button", name="Thumbnail 2 of 5").click()
    expect(page.locator("#world textarea")).to_have_value("", timeout=ANSWER)
    expect(page.locator("#imagined img")).to_have_count(0)
    expect(page.locator("#attention img")).to_have_count(0)
    page.screenshot(path=tmp_path / "cleared.png", full_page=True)


def test_a_bad_upload_is_a_message(page: Page, tmp_path: Path) -> None:
    (tmp_path / "own.png").write_bytes(b"no image")
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#image input[type=file]").set_input_files(tmp_path / "own.png")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("own.png: not an image", timeout=ANSWER)
