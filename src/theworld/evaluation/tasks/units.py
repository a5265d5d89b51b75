"""Lengths in running text, in metres."""

from __future__ import annotations

import re
import unicodedata

METRES = {
    "mm|millimet(?:er|re)s?": 0.001,
    "cm|centimet(?:er|re)s?": 0.01,
    "dm|decimet(?:er|re)s?": 0.1,
    "m|met(?:er|re)s?": 1.0,
    "km|kilomet(?:er|re)s?": 1000.0,
    "inch(?:es)?|in": 0.0254,
    '"': 0.0254,
    "feet|foot|ft|'": 0.3048,
    "yards?|yds?": 0.9144,
    "miles?|mi": 1609.344,
}
"""Metres per unit, by a pattern of the unit's names. The first `METRIC` are metric."""

METRIC = 5

_WORDS = "one two three four five six seven eight nine ten eleven twelve"
NUMBER_WORDS = {word: n for n, word in enumerate(_WORDS.split(), 1)}

_FACTORS = tuple(METRES.values())
_UNIT = "|".join(f"(?P<u{place}>{names})" for place, names in enumerate(METRES))
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,12}(?:\.\d+)?|\.\d+)(?:e[+-]\d{1,2})?"
_NUMBER = rf"{_DIGITS}|(?:{'|'.join(NUMBER_WORDS)})"
_BEHIND = r"""(?![\w"'/\u00b2\u00b3^])(?!\s\d+\s*$)"""  # no area, no speed, no "1 m 50"
# Not the end of another number ("1,5", "1/2", "2-3", "1e3") or of a quotation, and not the start of an area or a speed
_LENGTH = re.compile(rf"(?<![\w.,/\u2044\"'+-])(?P<number>{_NUMBER})[\s-]*(?:{_UNIT}){_BEHIND}", re.IGNORECASE)
_FRACTION = re.compile(rf"[/\u2044]\s*\d+[\s-]*(?:{'|'.join(METRES)}){_BEHIND}", re.IGNORECASE)
_MIXED = re.compile(r"(?<![\w.,/\u2044-])(\d{1,6})\s+(\d{1,3})\s*[/\u2044]\s*(\d{1,3})(?![\w/.,]*\d)")
_VULGAR = re.compile(r"(\d{0,6})\s?([\u00bc-\u00be\u2150-\u215e])")
_RANGE = re.compile(rf"(?<!\w)(?:{_NUMBER})\s*(?:to|or|and|-|~)\s*$", re.IGNORECASE)
# The "in" of "2 in front" is not an inch
_INCH_FOLLOWS = re.compile(r"\s*(?:$|[.,;:)!?]|(?:wide|tall|high|long|deep|apart|away)\b)", re.IGNORECASE)


def find_lengths(text: str) -> list[float]:
    """Every length of `text` in metres, in order. "5 feet 3 inches", "1 meter 50 centimeters" and "1 1/2 feet" are one.

    Empty if a length ends a range or is a bare fraction, since 1/2 may also mean "1 or 2".
    """
    text = re.sub(r"(\d')(?=\d)", r"\1 ", text)  # 5'3"
    text = _VULGAR.sub(lambda match: str(int(match[1] or 0) + unicodedata.numeric(match[2])), text)
    text = _MIXED.sub(_decimal, text)
    if _FRACTION.search(text):
        return []
    found: list[float] = []
    end, larger, place_before = 0, 0.0, 0
    for match in _LENGTH.finditer(text):
        if match[0].casefold().endswith("in") and not _INCH_FOLLOWS.match(text, match.end()):
            continue
        if _RANGE.search(text[max(0, match.start() - 40) : match.start()]):
            return []
        place = next(place for place in range(len(_FACTORS)) if match[f"u{place}"] is not None)
        word = match["number"].casefold()
        number = NUMBER_WORDS[word] if word in NUMBER_WORDS else float(word.replace(",", ""))
        length = number * _FACTORS[place]
        # Add to the previous length if that is a whole number of a larger unit of the same system: "5 feet 3 inches"
        adjacent = text[end : match.start()].strip(" ,.") in ("", "and")
        rest = length < larger and adjacent and (place < METRIC) == (place_before < METRIC)
        found.append(found.pop() + length if rest else length)
        end, larger, place_before = match.end(), _FACTORS[place] if number == int(number) else 0.0, place
    return found


def _decimal(mixed: re.Match[str]) -> str:
    """A mixed number such as "1 1/2" as a decimal number; other text is unchanged."""
    whole, over, under = (int(number) for number in mixed.groups())
    return str(whole + over / under) if over < under else mixed[0]
