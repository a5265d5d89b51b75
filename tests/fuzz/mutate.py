"""Damage to bytes, and to values of JSON, drawn from a seeded generator."""

import random
import struct
import zlib
from typing import Any

WEIRD_NUMBERS = (0, 1, 127, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1)
WEIRD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "\0",
        "\n",
        "\ud800",
        "é\u202e",
        "../..",
        "/dev/zero",
        "{",
        "{0}",
        "{question.x}",
        "<image>",
        "a" * 10_000,
    ),
    *([], {}, [[]], [None], [[], {}], {"a": None}, {"": {"": []}}, ["a", 1], {"bytes": "a", "path": 3}),
    *("<start_of_image>", "<end_of_turn>", "None", "nan", "1e999", "http://127.0.0.1:9/a.png", "data:,"),
)


def damaged(draw: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """`data` with one to eight kinds of damage; pieces of `other` may stand in it."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 1, 2, 4))):
        at = draw.randrange(len(found) + 1)
        kind = draw.randrange(10)
        if kind == 0:
            del found[at:]
        elif kind == 1:
            del found[at : at + draw.choice((1, 4, 64, 1024))]
        elif kind == 2:
            found[at:at] = draw.randbytes(draw.choice((1, 4, 64, 1024)))
        elif kind == 3:
            number = struct.pack(draw.choice("<>") + "I", draw.choice(WEIRD_NUMBERS))[-draw.choice((1, 2, 4)) :]
            found[at : at + len(number)] = number
        elif kind == 4 and other:
            start = draw.randrange(len(other))
            found[at:at] = other[start : start + draw.choice((16, 256, 4096))]
        elif kind == 5:
            start = draw.randrange(len(found) + 1)
            found[at:at] = found[start : start + draw.choice((8, 128, 2048))]
        else:  # most often: flipped bytes, more of them at the beginning, where headers are
            for _ in range(draw.choice((1, 1, 1, 2, 8))):
                if found:
                    span = draw.choice((32, 256, len(found)))
                    found[draw.randrange(min(span, len(found)))] = draw.randrange(256)
    return bytes(found)


def png_with_checksums(data: bytes) -> bytes:
    """A damaged PNG whose chunks have right checksums again, so that the damage reaches the decoder."""
    found, at = bytearray(data), 8
    while at + 12 <= len(found):
        length = int.from_bytes(found[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(found):
            break
        found[end : end + 4] = zlib.crc32(found[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(found)


def changed(draw: random.Random, value: Any) -> Any:
    """A copy of a value of JSON, somewhere in which a value is another, is gone, or has another name."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        rest = dict(value)
        kind = draw.randrange(8)
        if kind == 0:
            del rest[key]
        elif kind == 1:
            rest[draw.choice((key.upper(), key + "s", "", "\0", "a.b"))] = rest.pop(key)
        else:
            rest[key] = changed(draw, value[key])
        return rest
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], *([] if draw.random() < 0.1 else [changed(draw, value[at])]), *value[at + 1 :]]
    if isinstance(value, str) and value and draw.random() < 0.3:
        return damaged(draw, value.encode("utf-8", "replace"), b"<image>{}").decode("utf-8", "replace")
    if isinstance(value, int | float) and draw.random() < 0.3:
        return value * draw.choice((-1, 0.5, 2, 1000))
    return draw.choice(WEIRD_VALUES)
