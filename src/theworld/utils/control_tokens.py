"""Control tokens of a tokenizer in user text, where the model would read them as structure."""

from typing import Any

from .errors import TheWorldError

WORD_JOINER = "\u2060"  # an invisible character


def control_tokens(tokenizer: Any) -> set[str]:
    """The tokens that structure a prompt, such as those that end a turn."""
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    return {str(token) for token in added.values() if token.special} | set(tokenizer.all_special_tokens)


def without_control(text: str, tokenizer: Any) -> str:
    """`text` with an invisible character inserted into each control token, so that it is read as text.

    Raises:
        ValueError: It holds a lone surrogate, which tokenizers refuse.
    """
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise TheWorldError(f"{ascii(text)[:200]}: not Unicode text; expected UTF-8")
    for token in sorted(control_tokens(tokenizer), key=len, reverse=True):
        text = text.replace(token, token[0] + WORD_JOINER + token[1:])
    return text


__all__ = ["control_tokens", "without_control"]
