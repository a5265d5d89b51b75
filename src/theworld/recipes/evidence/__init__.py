"""The evidence that answers follow from the rollout: an experiment in eight resumable *lines*, and the claims.

bars      accuracy of static learners on labels and the first frame; which families of questions qualify
gain      accuracy of the rollout and of its best rival without a rollout, with the same labels
tracing   whether answers follow the imagined end, also if it is wrong
law       dynamics of another law, without new labels: whether answers follow the new law
dose      accuracy of answers as a function of the accuracy of imagined ends, for weaker dynamics
transfer  training on labels of easy scenes, questions about hard ones
no_harm   static questions about all frames, with the world on
verdicts  the verdicts of the evaluation
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from theworld.evaluation.tasks import micro_world
from theworld.utils.errors import TheWorldError
from theworld.utils.folders import locked
from theworld.utils.io import write_json

from ..nano import settle
from .claims import decide_claims
from .comparisons import bars, gain, transfer
from .futures import dose_response, law_swap, no_harm, trace, verdicts
from .models import check_dynamics
from .settings import HARD_KINDS, QUICK, EvidenceSettings, Experiment

LINES: dict[str, Callable[[Experiment], Any]] = {
    "bars": bars,
    "gain": gain,
    "tracing": trace,
    "law": law_swap,
    "dose": dose_response,
    "transfer": transfer,
    "no_harm": no_harm,
    "verdicts": verdicts,
}
"""In the order of computation. `bars` is first: without a family that qualifies, no claim about families can hold."""


def gather_evidence(folder: Path, settings: EvidenceSettings | None = None) -> dict[str, Any]:
    """Run the missing lines of the experiment in `folder`, and write `folder`/evidence.json and figures.

    Uses the models in `folder`/weights, with the layout of `theworld nano train`, or else the shipped models. Every
    result is one file in `folder`/results and is computed again only if its settings have changed.

    Returns:
        The content of evidence.json: the results by line, `claims`, and `settings`.

    Raises:
        FileNotFoundError: A folder of dynamics or of the models is missing.
        ValueError: Dynamics are damaged, have other shapes or are given twice; scenes or results in `folder` were made
            with other settings or weights; another run uses the folder; the models have clips of another size or
            length; or there are too few test scenes.
    """
    from .figures import draw_figures  # needs matplotlib

    settings = settings or EvidenceSettings()
    counts = settings.config.counts("test")
    if min(counts[kind] for kind in HARD_KINDS) < micro_world.MIN_READ:
        told = f"expected at least {micro_world.MIN_READ} scenes of {' and '.join(HARD_KINDS)}, to read imagined ends"
        raise TheWorldError(f"test={counts}: {told}")
    with locked(folder, is_main=True, option="folder"):
        experiment = Experiment(folder, settings)
        check_dynamics(experiment.cosmos, (settings.dynamics, settings.checkpoints))
        settle(folder / "recipe.json", settings.config)
        experiment.check_weights()
        inputs = settings.inputs()
        evidence: dict[str, Any] = {
            name: experiment.result(f"lines/{name}", inputs, lambda line=line: line(experiment))
            for name, line in LINES.items()
        }
        chosen = {"seeds": len(settings.seeds), "labels": settings.labels, "dynamics": 1 + len(settings.dynamics)}
        evidence |= {"claims": decide_claims(evidence), "settings": chosen}
        write_json(folder / "evidence.json", evidence)
        draw_figures(evidence, folder / "figures")
    return evidence


__all__ = ["LINES", "QUICK", "EvidenceSettings", "gather_evidence"]
