"""A conversation of several turns. Images stay in their turns, and answers are streamed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image
from transformers import TextStreamer
from typing_extensions import override

from theworld.model.configuration_theworld import check_world_steps
from theworld.utils.devices import input_device
from theworld.utils.errors import TheWorldError
from theworld.utils.images import open_image


class Conversation:
    """Turns of a user and a model.

    Args:
        model: The model that answers, with its own processor.

    Attributes:
        messages: Finished turns, as input of a chat template.
        images: RGB images that the next question will carry.
        use_world: Whether images have world tokens, including images of earlier turns.
        num_world_steps: Future latent frames of every image.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.messages: list[dict[str, Any]] = []
        self.images: list[Image.Image] = []
        self.use_world = model.config.enable_world
        self.num_world_steps = model.config.num_world_steps

    def add_image(self, image: Any) -> Image.Image:
        """Add `image`, of any kind that `open_image` opens, to the next question; returns it as RGB.

        Raises:
            ValueError: It cannot be read as an image.
            FileNotFoundError: The path does not exist.
        """
        self.images.append(open_image(image))
        return self.images[-1]

    def set_world(self, use_world: bool) -> None:
        """Turn the world on or off from the next answer on.

        Raises:
            ValueError: The model was loaded without a world.
        """
        if use_world and not self.model.config.enable_world:
            raise TheWorldError(
                "the model was loaded with enable_world=False and has no world to turn on: load it again"
            )
        self.use_world = use_world

    def set_steps(self, num_world_steps: int) -> None:
        """Imagine `num_world_steps` future latent frames from the next answer on.

        Raises:
            ValueError: It is negative or above the config's `max_world_steps`.
        """
        self.num_world_steps = check_world_steps(num_world_steps, self.model.config.max_world_steps)

    def clear(self) -> None:
        """Remove all turns and images; the world settings stay."""
        self.messages, self.images = [], []

    def ask(self, question: str, write: Callable[[str], object], max_new_tokens: int = 256) -> str:
        """Answer `question` greedily; `write` gets the answer's text word by word.

        If a question fails, the conversation does not change, and its images stay for the next question.

        Returns:
            The whole answer.

        Raises:
            ValueError: The question is empty or holds a reserved token, or the conversation no longer fits the model.
        """
        text = self.model.as_text(question)
        content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in self.images]
        asked = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
        inputs = self.model.processor.apply_chat_template(
            [*self.messages, asked],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            num_world_steps=self.num_world_steps if self.use_world else None,
            use_world=None if self.use_world else False,
        ).to(input_device(self.model))
        length, limit = inputs["input_ids"].shape[1], self.model.config.get_text_config().max_position_embeddings
        if length >= limit:
            raise TheWorldError(f"the conversation is {length} tokens long and the model reads {limit}: clear it")
        output = self.model.generate(
            **inputs,
            use_world=None if self.use_world else False,
            max_new_tokens=min(max_new_tokens, limit - length),
            do_sample=False,
            streamer=_Writer(self.model.processor.tokenizer, write),
        )
        answer = self.model.processor.decode(output[0, length:], skip_special_tokens=True).strip()
        self.messages += [asked, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        self.images = []
        return answer


class _Writer(TextStreamer):
    """Passes finished words to `write` instead of printing them."""

    def __init__(self, tokenizer: Any, write: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.write = write

    @override
    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.write(text)


__all__ = ["Conversation"]
