"""`TheWorldProcessor`: Gemma 3's processor, which also expands the world block and returns the world's pixels.

The block gets its full length here, so the model never changes a sequence: labels, masks, position ids, the KV cache,
beams and packing stay stock.

Shape legend: `B` prompts, `M` images of all prompts, `L` sequence, `H, W` world image size.
"""

import math
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from PIL import Image

# No `from __future__ import annotations` here: transformers reads the TypedDicts at run time
from transformers import AddedToken, BatchFeature, Gemma3Processor
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs

from theworld.constants import AUTO_MODULE, CUSTOM_TOKEN_EOW, CUSTOM_TOKEN_SOW, IGNORE_INDEX, MARKERS, WORLD_TOKEN
from theworld.utils.auto_classes import Installed
from theworld.utils.chat_template import check_template
from theworld.utils.errors import TheWorldError
from theworld.utils.frames import image_frames
from theworld.utils.hub import damage_named
from theworld.utils.images import flatten_images, open_image, open_message_images

from .configuration_theworld import TheWorldConfig, check_world_steps, image_shape
from .fusion import FUSIONS

WORLD_SETTINGS = (  # fields of a model's config that a processor needs
    *("enable_world", "world_image_size", "world_image_fit", "fusion", "world_tokens_per_frame", "num_world_steps"),
    *("max_world_steps", "world_position", "world_attention"),
)
LARGEST_BLOCK = 2**20  # tokens, so that a damaged or hostile processor_config.json cannot exhaust the memory


class WorldBatch(BatchFeature):
    """Output of a processor call. Adapts two entries for callers that handle images but no world input.

    `unsupervised` are the ids of world blocks and image placeholders, which have no label. Collators that copy
    `input_ids` as `labels` (TRL's, for messages) would train the model to write placeholders.
    """

    unsupervised: tuple[int, ...] = ()  # class default: copies made by trainers and worker processes lack the attribute

    def __setitem__(self, key: str, item: Any) -> None:
        if key == "labels" and isinstance(item, torch.Tensor) and self.unsupervised:
            blocks = torch.isin(item, torch.tensor(self.unsupervised, device=item.device))
            item = item.masked_fill(blocks, IGNORE_INDEX)
        if key == "text" and "world_pixel_values" in self.data:
            # transformers' pipeline, which sets this key, joins batches of image tensors only if they have 2 dimensions
            self.data["world_pixel_values"] = self.data["world_pixel_values"].flatten(1)
        self.data[key] = item


class TheWorldImagesKwargs(ImagesKwargs, total=False):
    num_world_steps: int | None
    use_world: bool | None


class TheWorldProcessingKwargs(ProcessingKwargs, total=False):
    images_kwargs: TheWorldImagesKwargs  # pyright: ignore[reportIncompatibleVariableOverride]


class TheWorldProcessor(Installed, Gemma3Processor):
    """Images and text -> every input of a TheWorld model, in one dict.

    A call returns Gemma 3's `input_ids`, `attention_mask`, `token_type_ids` (B, L) and `pixel_values`, and
    `world_pixel_values` (M, 3, H, W) in [-1, 1]. It takes `num_world_steps` (future latent frames `K`, which fixes the
    length of the block) and `use_world=False` (no block at all: plain Gemma 3's inputs). It pads left, as generation
    needs it. The markers of the block are special tokens: decoding skips them.

    The first four arguments are `Gemma3Processor`'s; the others are the fields of `TheWorldConfig` of the same name.
    """

    valid_processor_kwargs = TheWorldProcessingKwargs

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        image_seq_length: int = 256,
        enable_world: bool = True,
        world_image_size: int | list[int] = 224,
        world_image_fit: str = "crop",
        fusion: str = "tokens",
        world_tokens_per_frame: int = 784,
        num_world_steps: int = 0,
        max_world_steps: int = 16,
        world_position: str = "after_bos",
        world_attention: str = "causal",
        **kwargs: Any,
    ) -> None:
        sizes = {"image_seq_length": image_seq_length, "world_tokens_per_frame": world_tokens_per_frame}
        for name, number in sizes.items():
            if not 1 <= number <= LARGEST_BLOCK:
                raise TheWorldError(f"{name}={number}: expected 1 to {LARGEST_BLOCK}")
        super().__init__(image_processor, tokenizer, chat_template, image_seq_length, **kwargs)
        self.enable_world, self.fusion = enable_world, fusion
        self.world_image_size, self.world_image_fit = world_image_size, world_image_fit
        self.world_tokens_per_frame, self.max_world_steps = world_tokens_per_frame, max_world_steps
        self.num_world_steps = check_world_steps(num_world_steps, max_world_steps)
        self.world_position, self.world_attention = world_position, world_attention
        self.world_token_id = tokenizer.convert_tokens_to_ids(WORLD_TOKEN)
        self.auto_map = {"AutoProcessor": f"{AUTO_MODULE}.TheWorldProcessor"}
        tokenizer.padding_side = "left"
        if enable_world:
            known = [token for token in MARKERS if token in tokenizer.get_vocab()]  # new ones would enlarge the table
            tokenizer.add_tokens([AddedToken(token, special=True) for token in known], special_tokens=True)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Self:
        """As in transformers; a ValueError for damaged files, or a chat template that could exhaust time or memory."""
        with damage_named(pretrained_model_name_or_path):
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
            for template in (processor.chat_template, processor.tokenizer.chat_template):
                check_template(template, str(pretrained_model_name_or_path))
        return processor

    @classmethod
    def from_gemma(cls, processor: Gemma3Processor, config: TheWorldConfig) -> Self:
        """Extend a stock Gemma 3 processor by the world settings of `config`."""
        return cls(*gemma_arguments(processor), **{name: getattr(config, name) for name in WORLD_SETTINGS})

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but the tokenizer's file does not hold the padding and truncation of the last call."""
        self._reset_tokenizer()
        return super().save_pretrained(save_directory, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Gemma 3's call; it does not change the tokenizer."""
        inputs = super().__call__(*args, **kwargs)
        self._reset_tokenizer()
        batch = WorldBatch(inputs.data)
        if self.enable_world:
            batch.unsupervised = tuple(self.tokenizer.convert_tokens_to_ids([*MARKERS, self.tokenizer.image_token]))
        return batch

    def _reset_tokenizer(self) -> None:
        """Reset padding and truncation: a fast tokenizer saves those of its last call and uses them when loaded."""
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()

    def save_gemma(self, folder: str | Path) -> None:
        """Write the stock Gemma 3 processor that this one extends."""
        Gemma3Processor(*gemma_arguments(self)).save_pretrained(folder)

    def world_block(self, num_world_steps: int | None = None) -> str:
        """The block of one image as text: `<start_of_world>`, every placeholder, `<end_of_world>`."""
        steps = self.num_world_steps if num_world_steps is None else num_world_steps
        frames = 1 + check_world_steps(steps, self.max_world_steps)
        return CUSTOM_TOKEN_SOW + WORLD_TOKEN * (frames * self.world_tokens_per_frame) + CUSTOM_TOKEN_EOW

    def world_pixels(self, images: Any) -> torch.Tensor:
        """`world_pixel_values` (M, 3, H, W) in [-1, 1] of images, which may be nested lists."""
        shape = image_shape(self.world_image_size)
        return image_frames(flatten_images(images), shape, self.world_image_fit)

    @property
    def image_token_ids(self) -> list[int]:
        """Ids that attend in both directions within their run (`token_type_ids` 1)."""
        return [*super().image_token_ids, *([self.world_token_id] if self.world_attention == "bidirectional" else [])]

    @property
    def model_input_names(self) -> list[str]:
        """Keys that a call returns."""
        return [*super().model_input_names, *(["world_pixel_values"] if self.enable_world else [])]

    def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """Convert images of every accepted kind to RGB PIL images: Gemma and the world encoder get the same pixels."""
        images = None if images is None else _as_pil(images)
        return super().prepare_inputs_layout(images=images, text=text, **kwargs)

    def _check_special_mm_tokens(self, text: list[str], text_inputs: Any, modalities: list[str]) -> None:
        """Gemma 3's check that truncation cut no image, and the same check for world blocks."""
        rows = text_inputs["input_ids"]
        rows = rows.tolist() if isinstance(rows, torch.Tensor | np.ndarray) else rows  # counted 100 times faster
        super()._check_special_mm_tokens(text, cast(Any, {"input_ids": rows}), modalities)
        wanted = [sample.count(WORLD_TOKEN) for sample in text]
        if any(wanted) and (kept := [row.count(self.world_token_id) for row in rows]) != wanted:
            left = f"truncation cut a world block: {kept} of {wanted} world tokens are left"
            raise TheWorldError(f"{left}. Please disable truncation or increase `max_length`.")

    def _process_images(
        self, images: Any, num_world_steps: int | None = None, use_world: bool | None = None, **kwargs: Any
    ) -> tuple[Any, list[str]]:
        processed, replacements = super()._process_images(images, **kwargs)
        if not self.enable_world or use_world is False:
            return processed, replacements
        block = self.world_block(num_world_steps)
        processed["world_pixel_values"] = self.world_pixels(images)
        if FUSIONS[self.fusion].block:
            # The block is between special tokens, so the tokenisation of the text does not change
            replacements = [text.replace(self.boi_token, block + self.boi_token, 1) for text in replacements]
        elif num_world_steps is not None:  # the prompt has no block that shows it
            processed["num_world_steps"] = torch.full((len(processed["world_pixel_values"]),), num_world_steps)
        return processed, replacements

    def get_text_with_replacements(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, text: list[str], images_replacements: list[str], *others: Any, **kwargs: Any
    ) -> tuple[list[str], list[Any]]:
        """Expand placeholders; with `after_bos`, move all blocks of a prompt to the position after its BOS."""
        if self.world_position == "before_image" or not any(CUSTOM_TOKEN_SOW in r for r in images_replacements):
            return super().get_text_with_replacements(text, images_replacements, *others, **kwargs)
        parts, rest = zip(*map(_split_block, images_replacements), strict=True)
        blocks = iter(parts)
        leading = ["".join(next(blocks) for _ in range(sample.count(self.image_token))) for sample in text]
        text, offsets = super().get_text_with_replacements(text, list(rest), *others, **kwargs)
        moved = [self._insert_after_bos(*item) for item in zip(leading, text, offsets, strict=True)]
        return [sample for sample, _ in moved], [offset for _, offset in moved]

    def _insert_after_bos(self, block: str, sample: str, offsets: Any) -> tuple[str, list[dict[str, Any]]]:
        """Insert the block and record it as a replacement of an empty span, so that assistant masks stay correct."""
        bos = self.tokenizer.bos_token
        at, size = len(bos) if sample.startswith(bos) else 0, len(block)
        shifted = [{**one, "new_span": tuple(position + size for position in one["new_span"])} for one in offsets]
        inserted = {"type": "world", "span": (at, at), "new_span": (at, at + size), "text": "", "replacement": block}
        return sample[:at] + block + sample[at:], [inserted, *shifted]

    def apply_chat_template(
        self,
        conversation: Any,
        *args: Any,
        num_world_steps: int | None = None,
        use_world: bool | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Gemma 3's chat template; `num_world_steps` and `use_world` may be given directly.

        Images of messages are opened here, once for Gemma and the world encoder; forms and errors are those of
        `open_image`.
        """
        if self.chat_template is None and not args and kwargs.get("chat_template") is None:
            raise TheWorldError(
                "no chat template: use an instruction-tuned Gemma 3, such as google/gemma-3-4b-it, or set "
                "processor.chat_template"
            )
        if kwargs.get("tokenize"):
            conversation = open_message_images(conversation)
        world = {"num_world_steps": num_world_steps, "use_world": use_world}
        given = {name: value for name, value in world.items() if value is not None}
        processor_kwargs = {**(processor_kwargs or {}), **given}
        return super().apply_chat_template(conversation, *args, processor_kwargs=processor_kwargs, **kwargs)


def check_question(processor: TheWorldProcessor, config: TheWorldConfig, name: str) -> None:
    """Process a blank image and a question to check that chat template, tokenizer, image settings and config fit.

    Raises:
        ValueError: They do not fit, so the model could not answer a question about an image.
    """
    if processor.chat_template is None:  # a pretrained Gemma 3, without instruction tuning
        return
    # 1. Check that the prompt holds the image and the question
    question, vision, tokens = "What is it?", cast(Any, config.vision_config), cast(int, config.mm_tokens_per_image)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    if text.count(processor.boi_token) != 1 or question not in text:
        raise TheWorldError(
            f"{name}: its chat template leaves out the image or the question; save the checkpoint again with the "
            "template of its base model"
        )
    # 2. Check that its tokens and pixels are those that the model expects
    inputs = processor(images=[Image.new("RGB", (8, 8))], text=text, return_tensors="pt")
    ids, pixels = inputs["input_ids"], tuple(inputs["pixel_values"].shape[-2:])
    is_image = ids == config.image_token_index  # the id may lie outside of the embedding table
    found, largest = int(is_image.sum()), int(ids.masked_fill(is_image, 0).max())
    grid, limit = vision.image_size // vision.patch_size, config.get_text_config().vocab_size
    kernel = grid // math.isqrt(tokens)  # kernel size of the average pooling in Gemma3MultiModalProjector
    problems = [
        (found != tokens, f"an image has {found} tokens of image_token_index={config.image_token_index}"),
        (not kernel or (grid // kernel) ** 2 != tokens, f"the vision tower has {grid} x {grid} patches to pool"),
        (pixels != (vision.image_size,) * 2, f"images of {pixels} pixels, expected {vision.image_size} a side"),
        (largest >= limit, f"token {largest}, expected one below vocab_size={limit}"),
    ]
    if wrong := "; ".join(problem for fails, problem in problems if fails):
        raise TheWorldError(
            f"{name}: its config does not fit its processor or itself: mm_tokens_per_image={tokens}, and {wrong}; "
            "download it again"
        )


def gemma_arguments(processor: Gemma3Processor) -> tuple[Any, Any, str | None, int]:
    """Constructor arguments of the stock `Gemma3Processor`."""
    template = cast(str | None, processor.chat_template)
    return processor.image_processor, processor.tokenizer, template, processor.image_seq_length


def _as_pil(images: Any) -> Any:
    """Nested images -> the same nesting of RGB PIL images."""
    if isinstance(images, list | tuple):
        return [_as_pil(image) for image in images]
    return flatten_images(images) if getattr(images, "ndim", 3) == 4 else open_image(images)


def _split_block(replacement: str) -> tuple[str, str]:
    """The block in a replacement, and the rest of it."""
    start, end = replacement.index(CUSTOM_TOKEN_SOW), replacement.index(CUSTOM_TOKEN_EOW) + len(CUSTOM_TOKEN_EOW)
    return replacement[start:end], replacement[:start] + replacement[end:]


__all__ = ["TheWorldProcessor", "check_question"]
