"""A stock Gemma tokenizer and processor at toy size, trained on a small set of texts.

The classes are `GemmaTokenizer` and `Gemma3Processor`, so the same code works with full-size checkpoints: byte
fallback, spare `<unused*>` slots, Gemma 3's chat format, image placeholders.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AddedToken, Gemma3ImageProcessorPil, Gemma3Processor, GemmaTokenizer

from theworld.constants import END_OF_TURN, START_OF_TURN
from theworld.utils.errors import TheWorldError

BOI_TOKEN = "<start_of_image>"
EOI_TOKEN = "<end_of_image>"
IMAGE_TOKEN = "<image_soft_token>"

CORE_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")  # ids 0-4, as in Gemma
UNUSED_TOKENS = tuple(f"<unused{index}>" for index in range(8))
TURN_TOKENS = (START_OF_TURN, END_OF_TURN)
IMAGE_TOKENS = {"boi_token": BOI_TOKEN, "eoi_token": EOI_TOKEN, "image_token": IMAGE_TOKEN}

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # Gemma's normaliser replaces a space by it
BYTES = tuple(f"<0x{value:02X}>" for value in range(256))
ASCII = tuple(chr(code) for code in range(0x21, 0x7F))
ROLE_WORDS = ("user", "model")

# Gemma 3's chat format. A system message is put at the start of the first user turn. Images keep their position
CHAT_TEMPLATE = """
{%- macro render(content) -%}
    {%- if content is string -%}
        {{ content | trim }}
    {%- else -%}
        {%- for part in content -%}
            {%- if part['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif part['type'] == 'text' -%}
                {{ part['text'] | trim }}
            {%- else -%}
                {{ raise_exception("Content parts are of type 'text' or 'image', got '" ~ part['type'] ~ "'.") }}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set preamble = '' -%}
{%- set turns = messages -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set preamble = render(messages[0]['content']) ~ '\n\n' -%}
    {%- set turns = messages[1:] -%}
{%- endif -%}
{{ bos_token }}
{%- for turn in turns -%}
    {%- set expected = 'user' if loop.index0 % 2 == 0 else 'assistant' -%}
    {%- if turn['role'] != expected -%}
        {{ raise_exception("Roles must alternate user, assistant, user, ...: expected '" ~ expected ~ "', got '"
            ~ turn['role'] ~ "'.") }}
    {%- endif -%}
    {%- if expected == 'user' -%}
        {{ '<start_of_turn>user\n' ~ (preamble if loop.first else '') ~ render(turn['content']) ~ '<end_of_turn>\n' }}
    {%- else -%}
        {{ '<start_of_turn>model\n' }}
        {%- generation -%}
            {{ render(turn['content']) ~ '<end_of_turn>\n' }}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""


def build_tokenizer(texts: Iterable[str], vocab_size: int = 3072) -> GemmaTokenizer:
    """Train a Gemma tokenizer with byte fallback on `texts`.

    Every ASCII word of `texts` is trained on as it is, in lower case and capitalised, with and without a leading space.
    A word at the start of a turn therefore needs as few tokens as inside a sentence. Printable ASCII and single bytes
    cover all other text.

    Args:
        texts: Sentences whose words get tokens of their own.
        vocab_size: Upper bound of the vocabulary. Training stops earlier if no pair is left to merge.

    Raises:
        ValueError: `vocab_size` is smaller than the number of fixed tokens.
    """
    fixed = [*CORE_TOKENS, *UNUSED_TOKENS, *TURN_TOKENS, *IMAGE_TOKENS.values(), "\n", "\n\n", *BYTES, SPACE, *ASCII]
    if vocab_size < len(fixed):
        raise TheWorldError(
            f"vocab_size must be at least {len(fixed)} (markers, bytes, printable ASCII), got {vocab_size}."
        )

    plain = {word for text in texts for word in text.split() if word.isascii()} | set(ROLE_WORDS)
    words = sorted({form for word in plain for form in (word, word.lower(), word.capitalize())})
    merges = _train_merges([form for word in words for form in (word, SPACE + word)], vocab_size - len(fixed))
    tokens = dict.fromkeys([*fixed, *(left + right for left, right in merges)])
    tokenizer = GemmaTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=cast(Any, [("\n", "\n"), *merges]),  # annotated as str, but pairs are accepted
        add_bos_token=True,
        extra_special_tokens=dict(IMAGE_TOKENS),
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in UNUSED_TOKENS])
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=True) for token in TURN_TOKENS], special_tokens=True
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(tokenizer: GemmaTokenizer, image_size: int, image_seq_length: int) -> Gemma3Processor:
    """Combine `tokenizer` with an image processor that does not need torchvision.

    Args:
        image_size: Side in pixels of the square input of the vision tower. Pixel values are mapped to [-1, 1].
        image_seq_length: Image tokens per image, the `mm_tokens_per_image` of the model.
    """
    image_processor = Gemma3ImageProcessorPil(size={"height": image_size, "width": image_size})
    return Gemma3Processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        image_seq_length=image_seq_length,
    )


def _train_merges(words: Sequence[str], room: int) -> list[tuple[str, str]]:
    """Train and return at most `room` BPE merges. No merge crosses a word boundary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    alphabet = [SPACE, *ASCII]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + room, min_frequency=1, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
