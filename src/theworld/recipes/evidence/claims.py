"""Decide which claims hold. Claims about families consider only those that qualify (`comparisons.bars`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

CLAIMS = {
    "bars": "At least 3 families qualify on validation scenes: the best static learner is right in at most 70 % with "
    "500 labels and in at most 80 % with 2,000, a probe of the true end in at least 99 %",
    "gain": "With 5 seeds, 2 dynamics models and at least 1,000 questions, the rollout is right in at least 92 % and "
    "at least 15 points above every rival (lower end 10), p < 0.01 (Holm)",
    "tracing": "The answer is the imagined end in at least 97 %; of at least 100 wrong imagined ends of a family, at "
    "least 75 % are followed",
    "law": "On at least 500 scenes, the new dynamics give the new law's answer in at least 85 %, the old dynamics and "
    "the static arms in at most 15 %",
    "dose": "Over at least 8 dynamics models (checkpoints, numbers of denoising steps), the accuracy of answers as a "
    "function of the accuracy of imagined ends has a slope of 0.9 to 1.1 and r of at least 0.95",
    "transfer": "With labels on easy scenes, the rollout is right on at least 88 % of hard ones, at least 20 points "
    "above the strongest rival",
    "no_harm": "On static questions about all frames, for every K, the loss is at most 1 point (upper end 2), and at "
    "most 5 in every family",
    "verdicts": "The evaluation's verdict is *helps* on predictive questions, and not *harms* on static ones",
}
"""The claims by line. Their thresholds were fixed before the shipped models were trained."""

FEWEST_FAMILIES, FEWEST_DYNAMICS = 3, 8
FEWEST_LABELS = 500, 2_000
FEWEST_WRONG, FEWEST_DISPUTED = 100, 500
FEWEST_QUESTIONS, FEWEST_SEEDS, FEWEST_TRAINED = 1_000, 5, 2  # of a family; of fusions; dynamics with fusions
STATIC_ARMS = ("old_dynamics", "static_learner", "current_frame", "gemma_tuned")
EASED = 1e-9  # tolerance for rounding errors


@dataclass(frozen=True)
class Claim:
    """A claim, whether it holds, and the numbers that decide."""

    name: str
    claim: str
    holds: bool
    found: str


def decide_claims(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the eight claims as JSON objects; `evidence` holds the results by line."""
    qualifying = [family for family, row in evidence["bars"].items() if row["qualifies"]]
    return [
        asdict(claim)
        for claim in (
            _qualify(evidence["bars"], qualifying),
            _gain(evidence["gain"]["families"], qualifying),
            _tracing(evidence["tracing"], qualifying),
            _law(evidence["law"], qualifying),
            _dose(evidence["dose"]),
            _transfer(evidence["transfer"]["families"], qualifying),
            _no_harm(evidence["no_harm"]),
            _verdicts(evidence["verdicts"]),
        )
    ]


def _qualify(bars: Mapping[str, Any], qualifying: Sequence[str]) -> Claim:
    sizes = [row["decided_with"] for row in bars.values()]
    enough = all(few >= FEWEST_LABELS[0] and many >= FEWEST_LABELS[1] for few, many in sizes)
    told = ", ".join(qualifying) or "no family qualifies"
    if not enough:
        told = f"{told}; decided with {sizes[0][0]} and {sizes[0][1]} labels, which are too few"
    return _claim("bars", enough and len(qualifying) >= FEWEST_FAMILIES, told)


def _gain(families: Mapping[str, Any], qualifying: Sequence[str]) -> Claim:
    def holds(row: Mapping[str, Any]) -> bool:
        rivals = row["rivals"].values()
        least = min(rival["difference"] for rival in rivals)
        low, p = min(rival["low"] for rival in rivals), max(rival["p_holm"] for rival in rivals)
        seeds = row["by_seed"]  # by dynamics and seed
        size = row["n"] >= FEWEST_QUESTIONS and len(seeds) >= FEWEST_TRAINED and len(seeds[0]) >= FEWEST_SEEDS
        return (
            size and row["rollout"]["estimate"] >= 0.92 and least >= 0.15 - EASED and low >= 0.10 - EASED and p < 0.01
        )

    def told(row: Mapping[str, Any]) -> str:
        name, rival = min(row["rivals"].items(), key=lambda pair: pair[1]["difference"])
        gained = f"{100 * rival['difference']:+.1f} [{100 * rival['low']:+.1f}, {100 * rival['high']:+.1f}] to {name}"
        size = f"dynamics models: {len(row['by_seed'])}, seeds: {len(row['by_seed'][0])}, n = {row['n']}"
        return f"{_percent(row['rollout']['estimate'])}, {gained} ({size})"

    return _of_families("gain", families, qualifying, holds, told)


def _tracing(families: Mapping[str, Any], qualifying: Sequence[str]) -> Claim:

    def holds(row: Mapping[str, Any]) -> bool:
        followed = row["wrong_follows_imagined"]
        agrees = row["answer_is_imagined"]["estimate"] >= 0.97 and row["wrong"] >= FEWEST_WRONG
        return bool(agrees and followed and followed["estimate"] >= 0.75)

    def told(row: Mapping[str, Any]) -> str:
        followed = row["wrong_follows_imagined"]
        shown = f"; {_percent(followed['estimate'])} of {row['wrong']} wrong ones" if followed else "; none wrong"
        return _percent(row["answer_is_imagined"]["estimate"]) + shown

    return _of_families("tracing", families, qualifying, holds, told)


def _law(families: Mapping[str, Any], qualifying: Sequence[str]) -> Claim:

    def holds(row: Mapping[str, Any]) -> bool:
        new = row["new_dynamics"]["new"]
        others = all(row[arm]["new"]["estimate"] <= 0.15 for arm in STATIC_ARMS)
        return new["n"] >= FEWEST_DISPUTED and new["estimate"] >= 0.85 and others

    def told(row: Mapping[str, Any]) -> str:
        shown = ", ".join(f"{arm} {_percent(row[arm]['new']['estimate'])}" for arm in ("new_dynamics", *STATIC_ARMS))
        return f"{shown} (n={row['new_dynamics']['new']['n']})"

    return _of_families("law", families, qualifying, holds, told)


def _transfer(families: Mapping[str, Any], qualifying: Sequence[str]) -> Claim:

    def holds(row: Mapping[str, Any]) -> bool:
        return row["rollout"]["estimate"] >= 0.88 and row["rivals"][row["bar"]]["difference"] >= 0.20 - EASED

    def told(row: Mapping[str, Any]) -> str:
        gained = f"{100 * row['rivals'][row['bar']]['difference']:+.1f} to {row['bar']}"
        return f"{_percent(row['rollout']['estimate'])}, {gained}"

    return _of_families("transfer", families, qualifying, holds, told)


def _dose(dose: Mapping[str, Any]) -> Claim:
    count, line = sum(bool(model["families"]) for model in dose["models"]), dose["fit"]
    if line is None:
        return _claim("dose", False, f"no linear fit through the accuracies of {count} dynamics models")
    holds = count >= FEWEST_DYNAMICS and 0.9 <= line["slope"] <= 1.1 and line["r"] >= 0.95
    return _claim("dose", holds, f"slope {line['slope']:.2f}, r {line['r']:.3f}, {count} dynamics models")


def _no_harm(rows: Sequence[Mapping[str, Any]]) -> Claim:
    holds = all(
        row["difference"] >= -0.01 - EASED and row["low"] >= -0.02 and row["worst"]["difference"] >= -0.05 - EASED
        for row in rows
    )
    shown = [
        "K = {}: {:+.1f} [{:+.1f}, {:+.1f}], {} {:+.1f}".format(
            row["num_world_steps"],
            *(100 * row[key] for key in ("difference", "low", "high")),
            row["worst"]["family"],
            100 * row["worst"]["difference"],
        )
        for row in rows
    ]
    return _claim("no_harm", holds, "; ".join(shown))


def _verdicts(verdicts: Mapping[str, Mapping[str, str]]) -> Claim:
    outcomes = {kind: told["outcome"] for kind, told in verdicts.items()}
    holds = outcomes.get("predictive") == "helps" and outcomes.get("static") in ("helps", "no difference shown")
    return _claim("verdicts", holds, "; ".join(f"{kind}: {outcome}" for kind, outcome in outcomes.items()))


def _claim(name: str, holds: bool, found: str) -> Claim:
    return Claim(name, CLAIMS[name], holds, found)


def _of_families(name: str, families: Mapping[str, Any], qualifying: Sequence[str], holds: Any, told: Any) -> Claim:
    """A claim that holds if at least three families qualify and it holds for every qualifying family."""
    enough = len(qualifying) >= FEWEST_FAMILIES and all(
        family in families and holds(families[family]) for family in qualifying
    )
    shown = [
        f"{family}: {told(row)}{'' if family in qualifying else ' (does not qualify)'}"
        for family, row in families.items()
    ]
    shown += [f"{family}: not measured" for family in qualifying if family not in families]
    return _claim(name, enough, "; ".join(shown) or "nothing was measured")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
