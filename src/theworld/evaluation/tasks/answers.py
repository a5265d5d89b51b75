"""What an answer says, read by rules: `None` where it does not say it plainly, never a guess.

A letter that happens to begin a sentence ("Based on ..." for B) and a number that belongs to "Region [0]" have decided
published scores. So an answer counts when it stands alone, when it is declared ("the answer is ..."; the last such
declaration wins), or when nothing else in the text could be meant.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from .units import NUMBER_WORDS, find_lengths

_STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\u2032": "'", "\u201c": '"', "\u201d": '"', "\u2033": '"'})
_DECLARED = re.compile(
    r"\b(?:answer|correct (?:option|choice|region))(?:\s*\([^)]*\))?(?:\s+is(?!\s*not\b)|\s+would be|\s*[:=])\s*:?",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"(?:\b(?:not|never|neither|cannot)|n't)(?:\s+\S+)?\s*$", re.IGNORECASE)

# A "no" before a noun ("No cars are here") denies the cars, not the question
_YES_NO = re.compile(
    r"(?:(yes|yeah|yep|correct|indeed|true|that(?: i|')s (?:true|correct))"
    r"|(?:no|nope|incorrect|false|wrong|not true|that(?: i|')s (?:false|incorrect|wrong|not true|not correct)))"
    r"(?=\s*(?:$|[,.;:!\n-]|\b(?:the|it|its|there|this|that|these|they|he|she|region|both|neither|because)\b))",
    re.IGNORECASE,
)
_OPENING = re.compile(r"\s*(?:(?:actually|in fact|well|so|therefore)\b\s*,?\s*)*", re.IGNORECASE)

_REGION = re.compile(r"<?\bregions?\s*\[?\d{1,4}\]?>?", re.IGNORECASE)
_REGIONS = re.compile(  # "Region [0] and [1]" names two
    r"(?:\bregions?\s*\[?\d{1,4}\]?|\[\d{1,4}\])(?:\s*(?:/|&|\band\b|\bor\b)\s*\[?\d{1,4}\b(?!\.\d)\]?)*", re.IGNORECASE
)
_HOUR = rf"(?:\d{{1,2}}|{'|'.join(NUMBER_WORDS)})"
_CLOCK = re.compile(rf"(?<![\w.:/-])({_HOUR})\s*o\s*'?\s*clock\b", re.IGNORECASE)
_CLOCK_RANGE = re.compile(rf"\b{_HOUR}(?:\s*[-/]\s*|\s+(?:to|or|and)\s+){_HOUR}\s*o\s*'?\s*clock", re.IGNORECASE)


def parse_letter(text: str, letters: Collection[str], options: Mapping[str, str] | None = None) -> str | None:
    """The letter of an option: "B", "(B)", "B.", "The correct answer is (B)", "B is closer".

    In this order: a first line that is nothing else, the last declaration, the last letter in brackets, the one that is
    called an option, a letter that opens the text, and the one option whose own words are said. Declarations before
    brackets before an opening letter is the order of lmms-eval since 0.7.3 (its pull request 1435).

    Args:
        text: What the model said.
        letters: Capital letters that the question offers; others do not count.
        options: Text of every letter's option, when it may stand for the letter.
    """
    text = _plain(text)
    one = f"[{''.join(sorted(letters))}]"
    alone = re.fullmatch(rf"(?i:option\s+|choice\s+)?\(?((?i:{one}))[).:,\s]*", text.partition("\n")[0])
    if alone:
        return alone[1].upper()
    for tail in _declarations(text):
        said = re.match(
            rf"\s*(?i:option|choice)?\s*(?:\(((?i:{one}))\)|({one})(?=\s*(?:$|[).:,;!\n-])|\s+(?:because|since|as|is)\b))",
            tail,
        )
        if said and not re.match(rf"\s*(?:,|/|&|or\b|and\b)\s*\(?{one}\b", tail[said.end() :]):
            return (said[1] or said[2]).upper()
    brackets = [match for match in re.finditer(rf"\(((?i:{one}))\)", text) if not _denied(text, match)]
    if brackets:
        return _last_in_brackets(text, brackets)
    named = {match[1] for match in re.finditer(rf"\b(?i:option|choice)\s+({one})\b", text) if not _denied(text, match)}
    if len(named) == 1:
        return named.pop()
    opening = re.match(rf"({one})(?:[).:,]|\s+is\b(?!\s+(?:not|incorrect|wrong|false)\b))", text)
    if opening and not named:
        return opening[1]
    said_option = parse_choice(text, tuple((options or {}).values()))
    return next((letter for letter, option in (options or {}).items() if option == said_option), None)


def parse_yes_no(text: str) -> str | None:
    """`yes` or `no`: declared, or by the words that open the text, such as "True", "Incorrect", "That is false".

    A "no" before a noun ("No cars are visible") answers nothing, nor does a text that begins otherwise, unless its last
    line is the answer alone.
    """
    text = _plain(text)
    for part in (*_declarations(text), text, text.rpartition("\n")[2]):
        opening = _OPENING.match(part)
        said = _YES_NO.match(part, opening.end() if opening else 0)
        if said:
            then = _YES_NO.match(re.sub(r"^[\s,.;:!-]+", "", part[said.end() :]))
            return None if then and bool(then[1]) != bool(said[1]) else "yes" if said[1] else "no"
    return None


def parse_binary(text: str) -> str | None:
    """`0` or `1`: alone on the first or last line, declared, or opening the text with a mark behind it."""
    text = _plain(text)
    lines = text.split("\n")
    alone = re.compile(r"['\"(\[]*([01])['\")\]]*\.?")
    said = alone.fullmatch(lines[0].strip())
    for tail in _declarations(text):
        said = said or re.match(r"\s*['\"(]*([01])(?!\d|\.\d|['\")]*\s*(?:/|or\b|o'?\s*clock|of\b))", tail)
    said = said or re.match(r"['\"]?([01])['\"]?(?:\s*[,;:(]|\.(?!\d))", text) or alone.fullmatch(lines[-1].strip())
    return said[1] if said else None


def parse_metres(text: str) -> float | None:
    """A length with its unit, in metres: "3.93 feet", "5 feet 3 inches", "about 48 cm", "two metres".

    "Region [k]" is no number. Ranges, numbers without a unit, and lengths that differ are no answer; the same length in
    two units is one.
    """
    text = _REGION.sub(" ", _plain(text))
    for part in (*_declarations(text), text):
        lengths = find_lengths(part)
        if lengths and max(lengths) <= 1.05 * min(lengths):  # rounding between units
            return lengths[0]
    return None


def parse_clock(text: str) -> int | None:
    """An hour from 1 to 12: "2 o'clock", "two o'clock", or the bare number where the text is nothing else."""
    text = _REGION.sub(" ", _plain(text)).strip()
    alone = re.fullmatch(r"(?:about|approximately)?\s*(\d{1,2})\.?", text, re.IGNORECASE)
    if alone:
        return _hour(alone[1])
    for part in (*_declarations(text), text):
        hours = {match[1].casefold() for match in _CLOCK.finditer(part)}
        if _CLOCK_RANGE.search(part):
            return None
        if len({_hour(word) for word in hours}) == 1:
            return _hour(hours.pop())
    return None


def parse_region(text: str, regions: Collection[int] | None = None) -> int | None:
    """The number of the region that is named: the one declared, the only one, or the bare number if there is no more.

    Args:
        text: What the model said.
        regions: Numbers that the question offers; others are no answer.
    """
    text = _plain(text)
    for part in (*_declarations(text), text):
        alone = re.fullmatch(r"\s*(\d{1,4})\.?\s*", part)
        said = alone[1] if alone else " ".join(match[0] for match in _REGIONS.finditer(part))
        named = {int(number) for number in re.findall(r"\d+", said)}
        if len(named) == 1 and not re.search(r"\b(?:not|neither|nor|cannot)\b|n't\b", part, re.IGNORECASE):
            number = named.pop()
            return number if regions is None or number in regions else None
    return None


def parse_choice(text: str, choices: Collection[str]) -> str | None:
    """The one choice that is said as whole words, in any case: in a declaration, else in the whole text.

    A choice within a longer one that is said ("ball" in "red ball") does not count as said. Choices "yes" and "no" are
    read by `parse_yes_no`.
    """
    by_name = {choice.casefold(): choice for choice in choices}
    if not by_name:
        return None
    if set(by_name) == {"yes", "no"}:
        answer = parse_yes_no(text)
        return None if answer is None else by_name[answer]
    text = _plain(text)
    longest_first = sorted(by_name, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)
    for part in (*_declarations(text), text):
        found = list(pattern.finditer(part))
        names = {match[0].casefold() for match in found}
        if len(names) == 1 and not any(_denied(part, match) for match in found):
            return by_name[names.pop()]
    return None


def _plain(text: str) -> str:
    """Without Markdown's marks, typographic quotes, and quotes around the whole."""
    text = text.translate(_STRAIGHT).replace("\u2013", "-").replace("\u2014", "-")
    text = re.sub(r"[*_`$]+|\\boxed|[{}]", "", text).strip()
    return text[1:-1].strip() if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"" else text


def _declarations(text: str) -> list[str]:
    """What follows every "the answer is", the last one first."""
    return [text[match.end() :] for match in _DECLARED.finditer(text)][::-1]


def _denied(text: str, match: re.Match[str]) -> bool:
    """Whether a "not" stands before it, with at most one word between."""
    return _NEGATED.search(text[max(0, match.start() - 40) : match.start()]) is not None


def _last_in_brackets(text: str, found: list[re.Match[str]]) -> str | None:
    """The last letter, unless the text joins it to another one by "or", or only lists the options."""
    letters = [match[1].upper() for match in found]
    if len(found) > 1 and letters[-1] != letters[-2]:
        joined = re.fullmatch(r"\s*(?:,|/|&|or|and)*\s*", text[found[-2].end() : found[-1].start()], re.IGNORECASE)
        listed = len(re.findall(r"^ *\([A-Za-z]\)", text, re.MULTILINE)) == len(found)
        if joined or listed:
            return None
    return letters[-1]


def _hour(word: str) -> int | None:
    number = NUMBER_WORDS[word] if word in NUMBER_WORDS else int(word)
    return number if 1 <= number <= 12 else None


__all__ = [
    "parse_binary",
    "parse_choice",
    "parse_clock",
    "parse_letter",
    "parse_metres",
    "parse_region",
    "parse_yes_no",
]
