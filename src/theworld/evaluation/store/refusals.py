"""The arms of a task as they are on disk, or the reason why no conclusion may be drawn from them.

For this the `identity` of an arm must hold `task`, `arm`, and `items` with `count` and `digest` (`items_digest`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from theworld.utils.errors import MissingFileError, TheWorldError

from ..ask.arms import ARMS, FULL, MODEL
from .predictions import MANIFEST, PREDICTIONS, Prediction, read_predictions

WITHOUT_WORLD = tuple(name for name, arm in ARMS.items() if arm.world == "none")
"""Arms whose prompts hold no world tokens; every other arm has to consume some."""

ASKED = ("scorer", "instruction", "max_new_tokens", "dtype")
"""What the arms of one evaluation have in common."""

HIDDEN = "hidden"
"""What a benchmark whose answers are kept secret writes in their place, as BLINK's test split does."""

MAX_UNPARSED, MAX_ONE_ANSWER, MAX_RATE_GAP = 0.2, 0.9, 0.2
POSITIVE = ("yes", "1", "true")


@dataclass(frozen=True)
class ArmRun:
    """What one arm answered.

    Args:
        name: Of the arm.
        manifest: Of its folder.
        predictions: In the items' order.
    """

    name: str
    manifest: dict[str, Any]
    predictions: list[Prediction]

    @property
    def identity(self) -> dict[str, Any]:
        """What decided the predictions."""
        return self.manifest["identity"]


def read_arms(folder: str | Path, names: Iterable[str] | None = None) -> dict[str, ArmRun]:
    """Every arm in the folder of a task in the order of `ARMS`, checked; `names` says which ones only.

    Raises:
        FileNotFoundError: There is none.
        ValueError: One of the refusals in this file, or a row that does not fit its digest.
    """
    folder = Path(folder)
    order = {name: place for place, name in enumerate(ARMS)}
    found = (path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    names = sorted(found, key=lambda name: (order.get(name, len(order)), name)) if names is None else list(names)
    if not names:
        raise MissingFileError(f"{folder}: no predictions of any arm; `theworld evaluate` writes them")
    arms = {name: ArmRun(name, *read_predictions(folder / name)) for name in names}
    for arm in arms.values():
        check_arm(arm)
    check_together(arms)
    check_alike(arms)
    return arms


def check_arm(arm: ArmRun) -> None:
    """Refuse an arm that cannot be scored.

    Raises:
        ValueError: It holds another arm's predictions, is empty or incomplete, has an item twice, consumed no world
            tokens where it should have or some where it should not, or its answers are hidden.
    """
    identity, rows, count = arm.identity, arm.predictions, arm.identity["items"]["count"]
    causes = ", ".join(sorted({row.failed for row in rows if row.failed})[:3])
    empty = f"every one of {len(rows)} outputs is empty{f' ({causes})' if causes else ''}"
    twice = next((id for id, times in Counter(row.id for row in rows).items() if times > 1), None)
    tokens = sum(row.world_tokens for row in rows)
    without, hidden = arm.name in WITHOUT_WORLD, all(row.answer.strip().lower() in ("", HIDDEN) for row in rows)
    for refused, reason, remedy in (
        (identity["arm"] != arm.name, f"holds predictions of arm {identity['arm']!r}", "evaluate into an empty folder"),
        (not rows, "there are no predictions", "run the same command again"),
        (not any(row.output.strip() for row in rows), empty, "see what failed, and evaluate into another folder"),
        (twice is not None, f"item {twice!r} is there more than once", "evaluate into an empty folder"),
        (len(rows) != count, f"{len(rows)} of {count} items are there", "run the same command again to finish"),
        (hidden, "the answers of this split are hidden", "use a split that has them, such as val"),
        (without and tokens, f"consumed {tokens} world tokens", "an arm without the world must not have any"),
        (not without and not tokens, "consumed no world tokens", "give a checkpoint with a world"),
    ):
        if refused:
            raise TheWorldError(f"arm {arm.name!r} is refused: {reason}; {remedy}")


def check_together(arms: Mapping[str, ArmRun]) -> None:
    """Refuse arms that were asked other items, which cannot be compared.

    Raises:
        ValueError: Names two of them.
    """
    for (first, one), (second, other) in combinations(arms.items(), 2):
        if one.identity["items"] != other.identity["items"] or _ids(one) != _ids(other):
            raise TheWorldError(
                f"arms {first!r} and {second!r} were asked other items "
                f"({_shown(one.identity['items'])} and {_shown(other.identity['items'])}): evaluate both alike"
            )


def check_alike(arms: Mapping[str, ArmRun]) -> None:
    """Refuse arms in one folder that come from two evaluations.

    Raises:
        ValueError: They were asked in other ways, or the model has other weights or another number of steps.
    """
    own = {name for name in arms if name not in ARMS or ARMS[name].checkpoint == MODEL}
    own -= set(WITHOUT_WORLD)  # asked without loading the world, so that other weights are there
    rolled_out = {name for name in arms if name in ARMS and name not in WITHOUT_WORLD and ARMS[name].steps == "K"}
    for (first, one), (second, other) in combinations(arms.items(), 2):
        names = [*ASKED, *["weights"] * ({first, second} <= own)]
        names += ["num_world_steps"] * ({first, second} <= rolled_out)
        known = [name for name in names if name in one.identity and name in other.identity]  # a learner has no dtype
        differ = [name for name in known if one.identity[name] != other.identity[name]]
        if differ:
            raise TheWorldError(
                f"arms {first!r} and {second!r} were made with other {', '.join(differ)}: evaluate all arms of a model "
                "with the same settings, into a folder of its own"
            )


def same_arm(one: ArmRun, other: ArmRun) -> bool:
    """Whether two runs are one arm: the same weights and settings asked the same items, as a control of two models."""
    return one.identity == other.identity


def check_scored(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Refuse predictions that were added to or scored anew, by hand for example, since `metrics` were made of them.

    Raises:
        ValueError: Names the arms.
    """
    there = {path.parent.name: fingerprint(path.parent) for path in folder.glob(f"*/{MANIFEST}")}
    differ = sorted(name for name in {*there, *metrics["scored"]} if there.get(name) != metrics["scored"].get(name))
    if differ:
        raise TheWorldError(
            f"{folder}: predictions of {', '.join(differ)} are not those that {folder / 'metrics.json'} was made of; "
            "run the same `theworld evaluate` again, which scores what is there"
        )


def fingerprint(folder: Path) -> str:
    """What identifies the predictions in `folder` with their scores."""
    path = folder / PREDICTIONS
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()[:16]


def identical(one: Sequence[Prediction], other: Sequence[Prediction]) -> bool:
    """Whether two arms said the same everywhere, down to the log-probabilities where both have them."""
    return all(
        a.output == b.output
        and (a.choice_logprobs is None or b.choice_logprobs is None or a.choice_logprobs == b.choice_logprobs)
        for a, b in zip(one, other, strict=True)
    )


def warnings_of(arm: ArmRun) -> list[str]:
    """What a reader has to know before trusting the arm's accuracy; none of it is a refusal."""
    rows, found = arm.predictions, list[str]()
    unparsed = sum(row.parsed is None and row.failed is None for row in rows)
    if unparsed > MAX_UNPARSED * len(rows):
        found.append(f"{unparsed} of {len(rows)} answers could not be parsed")
    failed = sum(row.failed is not None for row in rows)
    if failed:
        found.append(f"{failed} of {len(rows)} items failed and count as wrong")
    answers = Counter(row.parsed for row in rows if row.parsed is not None)
    if answers:
        answer, times = answers.most_common(1)[0]
        if times > MAX_ONE_ANSWER * len(rows):
            found.append(f"{times} of {len(rows)} answers are {answer!r}")
    without = sum(not row.world_tokens and row.failed is None for row in rows)
    if arm.name not in WITHOUT_WORLD and without:
        found.append(f"{without} of {len(rows)} items consumed no world tokens")
    return [*found, *_rate_warning(rows)]


def _rate_warning(rows: Sequence[Prediction]) -> list[str]:
    """For questions of two answers: how often the positive one is given, against how often it is right."""
    rows = [row for row in rows if row.answer]  # but for those that never were an item
    right = Counter(row.answer.strip().lower() for row in rows)
    positive = next((word for word in POSITIVE if word in right), None)
    if len(right) != 2 or positive is None:
        return []
    parsed = [row.parsed.strip().lower() for row in rows if row.parsed is not None]
    if not parsed:
        return []
    rate, base = parsed.count(positive) / len(parsed), right[positive] / len(rows)
    if abs(rate - base) <= MAX_RATE_GAP:
        return []
    return [f"says {positive!r} to {rate:.0%} of what it answers, which is right for {base:.0%}"]


def _ids(arm: ArmRun) -> list[str]:
    return [row.id for row in arm.predictions]


def _shown(items: Mapping[str, Any]) -> str:
    return f"{items['count']} with digest {items['digest']}"


__all__ = [
    "FULL",
    "WITHOUT_WORLD",
    "ArmRun",
    "check_alike",
    "check_arm",
    "check_scored",
    "check_together",
    "fingerprint",
    "identical",
    "read_arms",
    "same_arm",
    "warnings_of",
]
