"""The page as a Gradio app; `answers.py` makes its content."""

# No `from __future__ import annotations` here: Gradio reads the annotation of an event at run time
import html
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from gradio.data_classes import ImageData
from PIL import Image

from theworld.constants import NANO
from theworld.model import TheWorld
from theworld.utils.errors import TheWorldError, one_line
from theworld.utils.images import open_image

from ..animate import enlarge
from ..guardrail import MISSING, can_show
from .answers import NO_IMAGE, Scene, Shown, animation, answer_twice

MAX_WAITING = 32  # questions in the queue; one is answered at a time, by the one model
KEPT_SECONDS = 3600  # how long uploads and images are stored
MAX_QUESTION = 1000  # characters
TITLE = "TheWorld"
LEAD = """# What happens next?
Show an image and ask about what follows. **{name}** answers twice: with the future that its world model imagines, and \
without any world."""
SIMULATED = "This model was trained only on simulated scenes, such as the examples. Its answers to photos mean nothing."
USER_ERRORS = (ValueError, OSError, ImportError, torch.OutOfMemoryError)


def build_page(model: TheWorld, name: str, scenes: Sequence[Scene]) -> gr.Blocks:
    """The page, not served yet.

    Args:
        model: Answers every question, one at a time.
        name: Name of the model on the page.
        scenes: Examples to select; the first is asked when the page opens.

    Raises:
        ValueError: The model has no world.
    """
    asking = Asking(model, scenes)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(LEAD.format(name=plain(name)), elem_id="lead")
        if (model.config.gemma_model_name or "").startswith(f"{NANO}/"):
            gr.Markdown(SIMULATED, elem_id="simulated")
        with gr.Row():
            with gr.Column(scale=4):
                image = gr.Image(
                    enlarge(scenes[0].image),
                    type="filepath",
                    label="Image",
                    elem_id="image",
                    height=330,
                    format="png",  # lossless, because examples are recognised by their pixels
                    sources=["upload", "clipboard"],
                    buttons=["fullscreen"],
                )
                _hand_over_unopened(image)
                thumbnails = [(enlarge(scene.image), scene.name) for scene in scenes]
                gr.Markdown("### Example scenes")
                examples = _gallery(thumbnails, "scenes", columns=3)
            with gr.Column(scale=6):
                question = gr.Textbox(
                    scenes[0].question,
                    label="Question",
                    placeholder="What happens next?",
                    elem_id="question",
                    max_lines=4,
                    max_length=MAX_QUESTION,
                )
                steps = _steps_slider(model)
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
                with gr.Row():
                    world = _answer("With the world", "world")
                    plain_answer = _answer("Without (plain Gemma 3)", "plain")
                truth = gr.Markdown(elem_id="truth")
        shown = [plain_answer, world, truth, *_images(model)]

        model_alone: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
        opened = page.load(
            asking.open, None, shown, show_progress_on=[world, plain_answer], api_visibility="private", **model_alone
        )
        asked = gr.on(
            [ask.click, question.submit],
            asking.answer,
            [image, question, steps],
            shown,
            api_name="ask",
            show_progress_on=[world, plain_answer],
            cancels=[opened],
            **model_alone,
        )
        examples.select(asking.pick, None, [image, question], api_visibility="private")
        # An answer is about one image: another image removes it, and cancels an answer in progress
        image.change(asking.clear, None, shown, cancels=[asked, opened], queue=False, api_visibility="private")
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1)


class Asking:
    """Actions of the page's buttons; errors become messages on the page."""

    def __init__(self, model: TheWorld, scenes: Sequence[Scene]) -> None:
        self.model = model
        self.scenes = scenes
        self.opening: Shown | None = None  # of the first example, once it was answered

    def open(self) -> Iterator[tuple[Any, ...]]:
        """Values of `shown` in `build_page` for the first example, which is answered once for all who open the page.

        Raises:
            gr.Error: As `answer`.
        """
        scene, shown = self.scenes[0], self.opening
        if shown is not None:
            yield self._values(shown, scene, scene.question)
            return
        with errors_as_messages():
            for shown in answer_twice(self.model, scene.image, scene.question, self.model.config.num_world_steps):
                yield self._values(shown, scene, scene.question)
        self.opening = shown

    def pick(self, event: gr.SelectData) -> tuple[Image.Image, str]:
        """Image and question of the example that was clicked."""
        scene = self.scenes[event.index]
        return enlarge(scene.image), scene.question

    def clear(self) -> tuple[Any, ...]:
        """Empty values of `shown` in `build_page`."""
        return self._values(Shown(), None, "")

    def answer(self, image: str | None, question: str, steps: float) -> Iterator[tuple[Any, ...]]:
        """Values of `shown` in `build_page`, as they become available; `image` is a path, a URL or a data URI.

        Raises:
            gr.Error: An error that the user can correct.
        """
        with errors_as_messages(image):
            if image is None:
                raise TheWorldError(NO_IMAGE)
            if len(question) > MAX_QUESTION:
                raise TheWorldError(f"the question has {len(question)} characters: at most {MAX_QUESTION} are allowed")
            opened = open_image(image)
            scene = self.scene_of(opened)
            for shown in answer_twice(self.model, scene.image if scene else opened, question, int(steps)):
                yield self._values(shown, scene, question)

    def scene_of(self, image: Image.Image) -> Scene | None:
        """The example with the same pixels as `image`, enlarged or not; `None` for the user's own image."""

        def shows(known: Image.Image) -> bool:
            return image.size == known.size and image.tobytes() == known.tobytes()

        return next((scene for scene in self.scenes if shows(scene.image) or shows(enlarge(scene.image))), None)

    def _values(self, shown: Shown, scene: Scene | None, question: str) -> tuple[Any, ...]:
        truth = ""
        if scene and question.strip() == scene.question and shown.world is not None:
            truth = f"Truth: **{plain(scene.answer)}**"
        frames = self._film(shown.frames)
        followed = self._film(scene.clip[: len(frames)] if scene else [])
        return (
            shown.plain,
            shown.world,
            truth,
            gr.HTML(animation(shown.frames), visible=len(frames) > 1),
            gr.Markdown(visible=bool(frames)),
            gr.Gallery(frames, visible=bool(frames)),
            gr.Markdown(visible=bool(followed)),
            gr.Gallery(followed, visible=bool(followed)),
            gr.Markdown(visible=shown.attention is not None),
            gr.HTML(shown.attention or "", visible=shown.attention is not None),
        )

    def _film(self, frames: Sequence[Image.Image]) -> list[tuple[Image.Image, str]]:
        return [(enlarge(frame), f"+{index}" if index else "now") for index, frame in enumerate(frames)]


@contextmanager
def errors_as_messages(image: str | None = None) -> Generator[None]:
    """Turn errors that the user can correct into messages of the page, without the folder of the `image`."""
    try:
        yield
    except USER_ERRORS as error:
        message = one_line(error).replace(f"{Path(image or '').parent}/", "")
        raise gr.Error(html.escape(message, quote=False), print_exception=False) from error


def plain(text: str) -> str:
    """Escape `text` for Markdown."""
    return re.sub(r"([\\`*_\[\]~$])", r"\\\1", html.escape(text))


def _hand_over_unopened(image: gr.Image) -> None:
    """Prevent Gradio from opening or fetching inputs of `image`; `open_image` does both, under its limits.

    Set on the object, because Gradio writes a file beside the source of every subclass.
    """
    move = image.async_move_resource_to_block_cache

    async def leave_urls(url_or_file_path: str | Path | None) -> str | None:
        url = str(url_or_file_path)
        return url if url.lower().startswith(("http://", "https://")) else await move(url_or_file_path)

    def name_of(payload: ImageData | None) -> str | None:
        if payload is not None and (payload.url or "").lower().startswith("data:"):
            return payload.url
        return payload and payload.path

    image.async_move_resource_to_block_cache = leave_urls
    image.preprocess = name_of


def _steps_slider(model: TheWorld) -> gr.Slider:
    config = model.config
    return gr.Slider(
        0,
        config.max_world_steps,
        config.num_world_steps,
        step=1,
        label="Steps to imagine",
        info=f"Each is {config.world_temporal_compression} video frames; 0 gives the model only the current frame.",
        elem_id="steps",
        buttons=[],
    )


def _answer(label: str, elem_id: str) -> gr.Textbox:
    return gr.Textbox(
        label=label,
        elem_id=elem_id,
        elem_classes="answer",
        placeholder="Press Ask",
        interactive=False,
        lines=1,
        max_lines=8,
    )


def _gallery(images: list[Any], elem_id: str, columns: int, visible: bool = True) -> gr.Gallery:
    return gr.Gallery(
        images,
        show_label=False,
        elem_id=elem_id,
        elem_classes="film",
        columns=columns,
        height="auto",
        object_fit="contain",
        format="png",
        allow_preview=False,
        interactive=False,
        container=False,
        buttons=[],
        visible=visible,
    )


def _images(model: TheWorld) -> list[Any]:
    """An animation, the imagined frames, the true next frames, and the attention; hidden until there is an answer.

    In the order of the page; all but the animation have a heading before them.
    """
    encoder = model.model.world_encoder
    columns = 1 + 2 * model.config.world_temporal_compression
    if encoder is None:
        raise TheWorldError("the demo needs a model with a world: load it with enable_world=True")
    if not encoder.can_decode:
        gr.Markdown("No imagined frames are shown: the world encoder predicts features, not frames")
    elif not can_show(encoder, model.config.cosmos_subfolder):
        gr.Markdown(f"No imagined frames are shown: {MISSING.format(name=encoder.source['model'])}")
    with gr.Row(equal_height=True):
        with gr.Column(scale=1, min_width=180):
            rollout = gr.HTML(visible=False, elem_id="rollout")
        with gr.Column(scale=5):
            parts = [rollout]
            for heading, elem_id in (("Imagined frames", "imagined"), ("True frames", "followed")):
                parts += [gr.Markdown(f"### {heading}", visible=False), _gallery([], elem_id, columns, visible=False)]
    heading = gr.Markdown("### Attention of the answer", visible=False)
    return [*parts, heading, gr.HTML(visible=False, elem_id="attention")]
