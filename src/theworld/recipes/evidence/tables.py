"""Results of `theworld nano evidence` as Markdown: claims, a table for each line, and figures."""

from collections.abc import Iterable, Mapping
from typing import Any

from theworld.utils.tables import markdown_table

ARMS = {
    "rollout": "rollout",
    "static_learner": "best static learner",
    "current_frame": "current frame, trained alike",
    "gemma_tuned": "Gemma 3, trained alike",
    "new_dynamics": "rollout, dynamics of the new law",
    "old_dynamics": "rollout, dynamics of the old law",
}


def evidence_text(evidence: Mapping[str, Any]) -> str:
    """Return the page: every claim with its numbers, then tables and figures of the lines."""
    claims = [["yes" if row["holds"] else "no", row["claim"], row["found"]] for row in evidence["claims"]]
    return "\n\n".join(
        [
            table(["holds", "claim, made beforehand", "found"], claims),
            bars_text(evidence["bars"]),
            figure("accuracy-over-labels", "Accuracy over the number of labelled scenes, by family"),
            gain_text(evidence["gain"]["families"], "gain"),
            rates_text(evidence["gain"]["rates"], "learning rate on questions"),
            gain_text(evidence["transfer"]["families"], "transfer to hard scenes"),
            figure("accuracy-over-difficulty", "Accuracy over difficulty, all labels being of the easiest scenes"),
            tracing_text(evidence["tracing"]),
            figure("answer-against-imagined-end", "Answers and imagined ends, by family"),
            law_text(evidence["law"]),
            figure("answers-under-two-laws", "Which law the answers follow, by family and arm"),
            dose_text(evidence["dose"]),
            figure(
                "dose-response",
                "Accuracy of answers as a function of the accuracy of imagined ends, a point for each dynamics model",
            ),
            harm_text(evidence["no_harm"]),
            "\n".join(f"- *{kind}*: {row['text']}" for kind, row in evidence["verdicts"].items()),
        ]
    )


def bars_text(bars: Mapping[str, Any]) -> str:
    """Return two rows per family, for test and validation scenes: the best static learner by labels, and the probe.

    Validation scenes decide whether a family qualifies.
    """
    labels = list(next(iter(bars.values()))["labels"])
    rows: list[list[str]] = []
    for family, row in bars.items():
        on_validation = [f"{100 * row['labels'][n]['validation']:.1f}" for n in labels]
        probes = {name: f"{100 * share:.1f}" for name, share in row["probe"].items()}
        decision = "yes" if row["qualifies"] else "no"
        rows.append([family, "test", *(percent(row["labels"][n]) for n in labels), probes["test"], ""])
        rows.append([family, "validation", *on_validation, probes["validation"], decision])
    counts = [f"{n} labels" for n in labels]
    return table(["best static learner", "scenes", *counts, "probe of the true end", "qualifies"], rows)


def gain_text(families: Mapping[str, Any], what: str) -> str:
    """Return a row per family and rival: accuracies, and the paired difference of the rollout to the rival."""
    rows = [
        [
            family,
            row["n"],
            percent(row["rollout"]),
            ARMS[name],
            f"{100 * rival['validation']:.1f}",
            f"{100 * rival['accuracy']:.1f}",
            points(rival),
            f"{rival['p_holm']:.4f}",
            _yes(name == row["bar"]),
        ]
        for family, row in families.items()
        for name, rival in row["rivals"].items()
    ]
    header = [what, "n", "rollout", "against", "accuracy on validation scenes", "accuracy", "difference", "p (Holm)"]
    return table([*header, "the strongest on validation scenes"], rows)


def rates_text(rates: Mapping[str, Any], what: str) -> str:
    """Return a row per arm: accuracy on validation scenes with each learning rate, and the chosen rate."""
    tried = list(next(iter(rates.values()))["tried"])
    rows = [
        [ARMS[arm], *(f"{100 * row['tried'][rate]:.1f}" for rate in tried), row["chosen"]] for arm, row in rates.items()
    ]
    return table([what, *(f"validation scenes, {rate}" for rate in tried), "chosen"], rows)


def tracing_text(traced: Mapping[str, Any]) -> str:
    """Return a row per family: accuracy and agreement of imagined ends and answers, and answers after wrong ends."""
    shares = ("reader_right", "imagined_right", "answer_right", "answer_is_imagined")
    rows = [
        [family, row["n"], *(percent(row[name]) for name in shares), row["wrong"]]
        + [percent(row[f"wrong_follows_{name}"]) for name in ("imagined", "truth")]
        for family, row in traced.items()
    ]
    header = ["error tracing", "n", "reader right on true ends", "imagined end right", "answer right"]
    header += ["answer = imagined end", "wrong imagined ends", "of these, answer = imagined", "answer = truth"]
    return table(header, rows)


def law_text(law: Mapping[str, Any]) -> str:
    """Return a row per family and arm: how often the arm gives the answer of the new and of the old law."""
    rows = [
        [family, of["new"]["n"], ARMS[arm], percent(of["new"]), percent(of["old"])]
        for family, arms in law.items()
        for arm, of in arms.items()
    ]
    return table(["law swap", "n", "answers of", "new law's answer", "old law's answer"], rows)


def dose_text(dose: Mapping[str, Any]) -> str:
    """Return a row per dynamics model: accuracy of imagined ends and answers by family. The last row has the slopes."""
    names = [family for family, line in dose["families"].items() if line]
    rows: list[list[Any]] = []
    for model in dose["models"]:
        told = (model["families"].get(name) for name in names)
        rows.append(
            [model["name"], *(f"{100 * m['imagined']:.1f} / {100 * m['answer']:.1f}" if m else "-" for m in told)]
        )
    lines = [f"{line['slope']:.2f}, r {line['r']:.3f}" for line in (dose["families"][name] for name in names)]
    rows.append(["slope", *lines])
    return table(["dynamics model: imagined ends right / answers right", *names], rows)


def harm_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a row per number of latent frames: accuracy on static questions, compared with plain Gemma 3."""
    shown = [
        [
            row["num_world_steps"],
            row["n"],
            f"{100 * row['gemma']:.1f}",
            points(row),
            f"{row['worst']['family']} {100 * row['worst']['difference']:+.1f}",
        ]
        for row in rows
    ]
    return table(["static questions, K", "n", "Plain Gemma 3", "difference with the world on", "worst family"], shown)


def figure(name: str, text: str) -> str:
    """Return an image of the page."""
    return f"![{text}](evidence/{name}.svg)"


def table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table of any values."""
    return markdown_table([*map(str, header)], [[*map(str, row)] for row in rows])


def percent(share: Mapping[str, Any] | None) -> str:
    """Return a share in percent with its 95 % interval, `-` if there is none."""
    if not share:
        return "-"
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * share[key] for key in ("estimate", "low", "high")))


def points(row: Mapping[str, Any]) -> str:
    """A difference in points of accuracy with the ends of its 95 % interval."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * row[key] for key in ("difference", "low", "high")))


def _yes(holds: bool) -> str:
    return "yes" if holds else ""
