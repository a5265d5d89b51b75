"""The experiment in a few steps: it runs, resumes and reports; and its claims follow from the numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForConditionalGeneration

from theworld.cli.main import main
from theworld.evaluation import learners, tracing
from theworld.evaluation.tasks import micro_world
from theworld.nano.kinds import KINDS
from theworld.nano.scenes import SceneSet, load
from theworld.recipes import evidence as package
from theworld.recipes.evidence import LINES, EvidenceSettings, choices, comparisons, figures
from theworld.recipes.evidence import answers as answering
from theworld.recipes.evidence.claims import STATIC_ARMS, decide_claims
from theworld.recipes.evidence.comparisons import bars, compare_arms, correct, resampled
from theworld.recipes.evidence.figures import FIGURES, draw_figures
from theworld.recipes.evidence.futures import fit
from theworld.recipes.evidence.models import Trained
from theworld.recipes.evidence.settings import FAMILIES, RATES, Experiment
from theworld.recipes.evidence.tables import evidence_text
from theworld.recipes.lanes import run_lanes
from theworld.recipes.nano import train_fusions, tuned_lane
from theworld.recipes.nano_config import SMOKE, NanoConfig
from theworld.recipes.package import digest
from theworld.utils.errors import TheWorldError
from theworld.utils.folders import locked
from theworld.utils.hub import NANO_WEIGHTS
from theworld.utils.io import read_jsonl, write_json

TINY = EvidenceSettings(
    seeds=(0,),
    labels=2,
    curve=(2, 4),
    sampler_steps=(2, 3),
    most_traced=6,
    law_clips=4,
    law_steps=2,
    questions=12,
    static_questions=12,
    futures=2,
    config=NanoConfig.from_file(
        SMOKE,
        {
            "validation": dict.fromkeys(KINDS, 4),
            "fusion": dict.fromkeys(KINDS, 1) | {"pegs": 4, "bumpers": 4},
            "test": dict.fromkeys(KINDS, 2) | {"pegs": 4, "bumpers": 4},
            "align_steps": 1,
            "question_steps": 1,
        },
    ),
)


def share(value: float, n: int = 1000) -> dict[str, float]:
    return {"estimate": value, "low": value - 0.02, "high": value + 0.02, "n": n}


def made_evidence() -> dict[str, Any]:
    """Numbers that bear every claim out; the fourth family does not qualify."""
    rival = {
        "accuracy": 0.65,
        "validation": 0.66,
        "difference": 0.30,
        "low": 0.26,
        "high": 0.34,
        "p": 0.0004,
        "p_holm": 0.005,
    }
    compared = {
        family: {
            "n": 1100,
            "rollout": share(0.95),
            "by_seed": [[0.94, 0.95, 0.96, 0.95, 0.95]] * 2,
            "bar": "static_learner",
            "rivals": {name: dict(rival) for name in ("static_learner", "current_frame", "gemma_tuned")},
        }
        for family in FAMILIES
    }
    labels = ("50", "100", "250", "500", "1000", "2000")
    bars = {
        family: {
            "labels": {
                n: {**share(0.45 + 0.05 * i), "validation": 0.46 + 0.05 * i, "learner": "CNN", "reads": "pixels"}
                for i, n in enumerate(labels)
            },
            "probe": {"test": 0.996, "validation": 0.997},
            "decided_with": [500, 2000],
            "qualifies": family != "peg_touch",
        }
        for family in FAMILIES
    }
    rising = {family: {n: share(0.80 + 0.03 * i) for i, n in enumerate(labels)} for family in FAMILIES}
    slower = {family: {n: share(0.50 + 0.05 * i) for i, n in enumerate(labels)} for family in FAMILIES}
    traced = {
        family: {
            "n": 2000,
            "imagined_right": share(0.94),
            "answer_right": share(0.935),
            "answer_is_imagined": share(0.98),
            "wrong": 120,
            "wrong_follows_imagined": share(0.85, 120),
            "wrong_follows_truth": share(0.1, 120),
            "scenes": 2000,
            "reader_right": share(0.995),
        }
        for family in FAMILIES
    }
    followed = {"new_dynamics": (0.9, 0.06), "old_dynamics": (0.05, 0.92)}
    followed |= {"current_frame": (0.1, 0.7), "static_learner": (0.12, 0.66), "gemma_tuned": (0.11, 0.5)}
    arms = {arm: {"new": share(new, 600), "old": share(old, 600)} for arm, (new, old) in followed.items()}
    doses = [0.55, 0.62, 0.7, 0.78, 0.85, 0.9, 0.94, 0.97]
    models = [
        {
            "name": f"dynamics {number}",
            "imagined": dose,
            "answer": dose - 0.01,
            "families": {
                family: {"imagined": dose + 0.01 * place, "answer": dose + 0.012 * place - 0.01}
                for place, family in enumerate(FAMILIES)
            },
        }
        for number, dose in enumerate(doses)
    ]
    steps = [
        {
            "num_world_steps": number,
            **{"difference": -0.004, "low": -0.009, "high": 0.001, "n": 4000, "gemma": 0.97},
            "worst": {"family": "above_below", "difference": -0.03},
        }
        for number in range(4)
    ]
    rates = {
        arm: {"tried": {"0.0005": 0.91, "0.00025": 0.93}, "chosen": "0.00025", "rate": 0.5} for arm in choices.TRAINED
    }
    levels = {"rollout": 0.96, "current_frame": 0.8, "static_learner": 0.78, "gemma_tuned": 0.6}
    return {
        "bars": bars,
        "gain": {
            "families": compared,
            "curve": {"rollout": rising, "current_frame": slower},
            "rates": rates,
        },
        "tracing": traced,
        "law": {family: deepcopy(arms) for family in FAMILIES},
        "dose": {
            "models": models,
            "fit": fit(models),
            "families": {family: fit([model["families"][family] for model in models]) for family in FAMILIES},
        },
        "transfer": {
            "families": deepcopy(compared),
            "levels": {
                arm: {
                    family: [share(value - 0.1 * level * (arm != "rollout")) for level in range(3)]
                    for family in FAMILIES
                }
                for arm, value in levels.items()
            },
        },
        "no_harm": steps,
        "verdicts": {
            "predictive": {"outcome": "helps", "text": "The world helps: ..."},
            "static": {"outcome": "no difference shown", "text": "No difference shown: ..."},
        },
    }


def holding(evidence: dict[str, Any]) -> list[str]:
    return [row["name"] for row in decide_claims(evidence) if row["holds"]]


def test_every_claim_holds_where_the_numbers_say_so() -> None:
    claims = decide_claims(made_evidence())
    assert [row["name"] for row in claims] == [*LINES]
    assert all(row["holds"] for row in claims)
    size = "(dynamics models: 2, seeds: 5, n = 1100) (does not qualify)"
    assert f"peg_touch: 95.0 %, +30.0 [+26.0, +34.0] to static_learner {size}" in claims[1]["found"]


Change = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize(
    ("line", "change"),
    [
        ("gain", lambda e: e["gain"]["families"]["wall"]["rollout"].update(estimate=0.91)),
        ("gain", lambda e: e["gain"]["families"]["wall"]["rivals"]["current_frame"].update(difference=0.14)),
        ("gain", lambda e: e["gain"]["families"]["wall"]["rivals"]["current_frame"].update(low=0.09)),
        ("gain", lambda e: e["gain"]["families"]["wall"]["rivals"]["gemma_tuned"].update(p_holm=0.02)),
        ("gain", lambda e: e["gain"]["families"]["wall"].update(n=999)),
        ("gain", lambda e: e["gain"]["families"]["wall"]["by_seed"].pop()),
        ("gain", lambda e: e["gain"]["families"]["wall"]["by_seed"][0].pop()),
        ("tracing", lambda e: e["tracing"]["peg_bin"].update(wrong=99)),
        ("tracing", lambda e: e["tracing"]["peg_bin"]["answer_is_imagined"].update(estimate=0.96)),
        ("tracing", lambda e: e["tracing"]["peg_bin"]["wrong_follows_imagined"].update(estimate=0.7)),
        ("tracing", lambda e: e["tracing"].pop("peg_bin")),
        ("law", lambda e: e["law"]["wall"]["new_dynamics"]["new"].update(estimate=0.84)),
        ("law", lambda e: e["law"]["wall"]["new_dynamics"]["new"].update(n=499)),
        ("law", lambda e: e["law"]["wall"]["static_learner"]["new"].update(estimate=0.16)),
        ("law", lambda e: e["law"]["wall"]["gemma_tuned"]["new"].update(estimate=0.16)),
        ("dose", lambda e: e["dose"].update(fit=None)),
        ("dose", lambda e: e["dose"]["models"].pop()),
        ("dose", lambda e: e["dose"]["fit"].update(slope=1.2)),
        ("transfer", lambda e: e["transfer"]["families"]["wall"]["rollout"].update(estimate=0.87)),
        ("no_harm", lambda e: e["no_harm"][1].update(difference=-0.011)),
        ("no_harm", lambda e: e["no_harm"][0].update(low=-0.021)),
        ("no_harm", lambda e: e["no_harm"][3]["worst"].update(difference=-0.06)),
        ("verdicts", lambda e: e["verdicts"]["predictive"].update(outcome="no difference shown")),
        ("verdicts", lambda e: e["verdicts"]["static"].update(outcome="harms")),
        ("bars", lambda e: e["bars"]["wall"].update(decided_with=[200, 400])),
    ],
)
def test_a_claim_falls_with_its_own_number_alone(line: str, change: Change) -> None:
    evidence = made_evidence()
    change(evidence)
    assert holding(evidence) == [name for name in LINES if name != line]


def test_families_that_do_not_qualify_neither_help_nor_hinder() -> None:
    evidence = made_evidence()
    evidence["gain"]["families"]["peg_touch"]["rollout"]["estimate"] = 0.5
    assert "gain" in holding(evidence)
    evidence["bars"]["wall"]["qualifies"] = False
    assert holding(evidence) == ["dose", "no_harm", "verdicts"]


def test_every_family_that_qualifies_has_to_be_measured() -> None:
    evidence = made_evidence()
    evidence["bars"]["peg_touch"]["qualifies"] = True
    del evidence["tracing"]["peg_touch"]
    claims = {row["name"]: row for row in decide_claims(evidence)}
    assert not claims["tracing"]["holds"]
    assert "peg_touch: not measured" in claims["tracing"]["found"]


def test_a_difference_is_resampled_over_seeds_and_scenes() -> None:
    rng = np.random.default_rng(0)
    scenes = (rng.random(400) < 0.9).astype(float)
    alike, spread = np.tile(scenes, (1, 3, 1)), np.stack([[scenes, scenes, 0 * scenes]])
    rival = np.zeros((1, 400))
    one, several = resampled(alike, rival), resampled(spread, rival)
    assert one["difference"] == pytest.approx(scenes.mean())
    assert one["low"] == pytest.approx(scenes.mean() - 1.96 * scenes.std() / 20, abs=0.005)
    assert several["high"] - several["low"] > 3 * (one["high"] - one["low"])
    assert one["p"] == pytest.approx(2 / 5001)
    nothing = resampled(alike, alike[0])
    assert (nothing["difference"], nothing["p"]) == (0, 1)


def made_scenes(count: int = 20) -> SceneSet:
    """Scenes that all end the same way."""
    records = [{"outcomes": dict.fromkeys(FAMILIES, "red")} for _ in range(count)]
    return SceneSet(Path(), np.empty(0, np.uint8), np.empty(0, np.uint8), records)


def made_answers(right: int, count: int = 20) -> dict[str, dict[str, str]]:
    return {family: {str(clip): "red" if clip < right else "" for clip in range(count)} for family in FAMILIES}


def test_the_bar_is_the_rival_that_is_right_most_often_on_validation_scenes() -> None:
    rivals = {"static_learner": [made_answers(9)], "gemma_tuned": [made_answers(12)]}
    validation = {"static_learner": dict.fromkeys(FAMILIES, 0.6), "gemma_tuned": dict.fromkeys(FAMILIES, 0.5)}
    found = compare_arms(made_scenes(), [[made_answers(18), made_answers(16)]], rivals, validation)
    row = found["wall"]
    assert (row["n"], row["bar"]) == (20, "static_learner")
    assert row["rollout"]["estimate"] == pytest.approx(0.85)
    assert row["rivals"]["gemma_tuned"]["difference"] == pytest.approx(0.25)
    assert (row["rivals"]["gemma_tuned"]["accuracy"], row["rivals"]["gemma_tuned"]["validation"]) == (0.6, 0.5)
    assert all(rival["p_holm"] >= rival["p"] for rival in row["rivals"].values())


def test_shares_are_of_the_scenes_that_every_arm_was_asked_about() -> None:
    arms = {"a": [made_answers(10), made_answers(20)], "b": [made_answers(5, count=10)]}
    shares = choices.shares_right(made_scenes(), arms)
    assert {arm: share["wall"] for arm, share in shares.items()} == {"a": 1.0, "b": 0.5}


def test_a_learning_rate_is_chosen_on_validation_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, SceneSet]] = []
    right = {"rollout": (15, 18), "current_frame": (11, 9), "gemma_tuned": (8, 8)}  # by `RATES`

    def answer(_: Experiment, models: list[Trained], scenes: SceneSet, name: str) -> list[Any]:
        asked.append((name, scenes))
        return [made_answers(right[model.arm][RATES.index(model.rate)]) for model in models]

    trained: list[Trained] = []
    monkeypatch.setattr(choices, "train_models", lambda _, models: trained.extend(models))
    monkeypatch.setattr(choices, "trained_answers", answer)
    validation, experiment = made_scenes(), Experiment(tmp_path, EvidenceSettings())
    rates = choices.choose_rates(experiment, validation)
    assert {arm: (row["rate"], row["chosen"]) for arm, row in rates.items()} == {
        "rollout": (0.5, "0.00015"),
        "current_frame": (1.0, "0.0003"),
        "gemma_tuned": (1.0, "0.0003"),
    }
    assert rates["rollout"]["tried"] == {"0.0003": 0.75, "0.00015": 0.9}
    assert {(model.arm, model.rate) for model in trained} == {(arm, rate) for arm in right for rate in RATES}
    assert all(name == "validation" and scenes is validation for name, scenes in asked)


@pytest.mark.parametrize(
    ("validation", "test", "qualifies"), [(0.65, 0.75, True), (0.75, 0.65, False)], ids=["qualifies", "does not"]
)
def test_test_scenes_do_not_decide_what_qualifies(
    validation: float, test: float, qualifies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = {"validation": validation, "test": test}

    def learn(*_: object) -> dict[str, Any]:
        answers = {name: made_answers(round(20 * right))["wall"] for name, right in share.items()}
        return {"answers": answers, "learners": [{"chosen": True, "learner": "CNN", "features": "pixels"}]}

    monkeypatch.setattr(Experiment, "split", lambda *_: made_scenes())
    monkeypatch.setattr(comparisons, "learned_answers", learn)
    probe = {"validation": 0.995, "test": 0.98} if qualifies else {"validation": 0.98, "test": 0.995}
    monkeypatch.setattr(comparisons, "probe_ends", lambda *_: probe)
    found = bars(Experiment(tmp_path, EvidenceSettings(curve=(500,))))
    assert {family: row["qualifies"] for family, row in found.items()} == dict.fromkeys(FAMILIES, qualifies)
    assert found["wall"]["labels"]["500"]["estimate"] == test
    assert found["wall"]["probe"] == probe


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"law": "tilted"}, "law='tilted': expected 'usual'"),
        ({"kinds": ["drop", "pegs"]}, "validation={'drop': 300, 'pegs': 800}: expected scenes of pegs and bumpers"),
        ({"test": {"pegs": 0}}, "test={.*'pegs': 0.*}: expected scenes of pegs and bumpers"),
    ],
)
def test_the_experiment_needs_its_scenes(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(TheWorldError, match=told):
        EvidenceSettings(config=NanoConfig(**keys))


@pytest.mark.parametrize("numbers", [{"labels": 2_501}, {"curve": (50, 4_000)}])
def test_there_are_as_many_scenes_as_labels(numbers: dict[str, Any]) -> None:
    with pytest.raises(TheWorldError, match="labelled scenes of a kind: expected 1 to 2500"):
        EvidenceSettings(**numbers)


def test_other_weights_and_other_configs_have_another_digest(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"world_inference_steps": 2})
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = digest(tmp_path)
    write_json(tmp_path / "config.json", {"world_inference_steps": 6})
    second = digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"others")
    assert len({first, second, digest(tmp_path)}) == 3


def test_early_dynamics_are_known_by_their_weights(tmp_path: Path) -> None:
    def inputs(weights: bytes) -> dict[str, Any]:
        (tmp_path / "transformer").mkdir(exist_ok=True)
        (tmp_path / "transformer" / "model.safetensors").write_bytes(weights)
        return EvidenceSettings(checkpoints=(tmp_path,)).inputs()

    assert inputs(b"one") == inputs(b"one") != inputs(b"two")


def test_holm_is_over_all_families_and_rivals() -> None:
    families = {name: {"rivals": {"a": {"p": 0.01}, "b": {"p": 0.02}}} for name in ("one", "two")}
    assert [rival["p_holm"] for rival in correct(families)["one"]["rivals"].values()] == [0.04, 0.04]


def test_figures_and_tables_show_every_line(tmp_path: Path) -> None:
    evidence = made_evidence() | {"claims": decide_claims(made_evidence())}
    text = evidence_text(evidence)
    for path in draw_figures(evidence, tmp_path):
        assert f"(evidence/{path.name})" in text
        assert path.read_text(encoding="utf-8").startswith("<?xml")
        assert path.with_suffix(".png").stat().st_size > 10_000
    assert len([*tmp_path.iterdir()]) == 2 * len(FIGURES)
    for shown in (
        "| yes | At least 3 families",
        "| gain | n |",
        "transfer to hard scenes",
        "| law swap |",
        "| slope |",
        "| learning rate on questions | validation scenes, 0.0005 | validation scenes, 0.00025 | chosen |",
        "| best static learner | scenes | 50 labels |",
    ):
        assert shown in text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of the shipped world and one layer of the shipped Gemma, with a fusion and controls of one step."""
    folder = tmp_path_factory.mktemp("evidence")
    weights, made = folder / "weights", folder / "made"
    for name in ("gemma", "cosmos", "theworld"):
        shutil.copytree(NANO_WEIGHTS / name, weights / name)
    gemma = Gemma3ForConditionalGeneration.from_pretrained(weights / "gemma")
    del gemma.model.language_model.layers[1:]
    text: Any = gemma.config.text_config
    text.num_hidden_layers, text.layer_types = 1, text.layer_types[:1]
    gemma.save_pretrained(weights / "gemma")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("theworld.recipes.nano.NANO_WEIGHTS", weights)
        (trained,) = train_fusions(made, ["cosmos"], [0], TINY.config)
        run_lanes([tuned_lane(made, TINY.config)], 1)
    shutil.copytree(trained, weights / "theworld", dirs_exist_ok=True)
    still = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    still |= {"world_encoder": "still", "gemma_model_name": "../../gemma", "cosmos_model_name": "../../cosmos"}
    shutil.copytree(trained, weights / "controls" / "current_frame")
    (weights / "controls" / "current_frame" / "config.json").write_text(json.dumps(still), encoding="utf-8")
    shutil.copytree(made / "weights/controls/gemma_tuned", weights / "controls" / "gemma_tuned")
    return folder


def weaken(transformer: Path) -> None:
    """Halve the output of a transformer."""
    (path,) = transformer.glob("*.safetensors")
    weights = load_file(path)
    save_file({name: tensor / 2 if "proj_out" in name else tensor for name, tensor in weights.items()}, path)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "QUICK", TINY)
    monkeypatch.setattr(comparisons, "RESAMPLES", 50)
    monkeypatch.setattr(choices, "RATES", RATES[:1])
    monkeypatch.setattr(answering, "PROBE_STEPS", 5)
    monkeypatch.setattr(tracing, "STEPS", 5)
    monkeypatch.setattr(micro_world, "MIN_READ", 2)
    quick = partial(learners.networks, learners.build_mlp, (5,), (0.05,))
    monkeypatch.setattr(learners, "LEARNERS", (("MLP", "current latent", quick),))


@pytest.mark.usefixtures("few_steps")
def test_the_experiment_runs_resumes_and_reports(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    early = folder / "early"
    shutil.copytree(NANO_WEIGHTS / "cosmos" / "transformer", early / "transformer")
    weaken(early / "transformer")
    write_json(config := folder / "tiny.json", TINY.config.to_dict())
    options = ["nano", "evidence", str(folder), "--quick", "--config", str(config), "--checkpoints", str(early)]
    # 1. Every line has numbers, and the command names every claim
    assert main(options) == 0
    told = capsys.readouterr().out
    found = json.loads((folder / "evidence.json").read_text(encoding="utf-8"))
    assert told.count("hold") == len(LINES)
    assert all(row["claim"] in told for row in found["claims"])
    for name in FAMILIES:
        assert [*found["bars"][name]["labels"]] == ["2", "4"]
        assert {*found["gain"]["families"][name]["rivals"]} == {"static_learner", "current_frame", "gemma_tuned"}
        assert [*found["gain"]["curve"]["rollout"][name]] == ["2", "4"]
        assert len(found["transfer"]["levels"]["rollout"][name]) == 3
    assert {*found["gain"]["rates"]} == {"rollout", "current_frame", "gemma_tuned"}
    assert {*found["tracing"]} == {*FAMILIES}
    assert {*found["law"]} >= {"peg_bin", "wall"}
    assert found["law"]["wall"].keys() == {"new_dynamics", *STATIC_ARMS}
    assert [model["name"] for model in found["dose"]["models"]] == ["2 denoising steps", "3 denoising steps", "early"]
    assert [row["num_world_steps"] for row in found["no_harm"]] == [0, 1, 2, 3]
    assert {*found["verdicts"]} == {"predictive", "static", "conversational"}
    # 2. Labels are of the first scenes of the kinds that are asked about; of each there is a mirrored copy
    scenes = load(folder / "scenes" / "fusion")
    rows = [*read_jsonl(folder / "fusions-mirrored" / "conversations-2" / "conversations.jsonl")]
    first = [record["seed"] for record in scenes.records if record["kind"] == "pegs"][:2]
    sides = {
        side: {row["id"].removesuffix("-mirrored").rpartition("-")[0] for row in rows if row["id"].endswith(side)}
        for side in ("-later", "-later-mirrored")
    }
    assert sides["-later"] == sides["-later-mirrored"]
    assert {name for name in sides["-later"] if name.startswith("pegs")} == {f"pegs-{seed}" for seed in first}
    assert {name.partition("-")[0] for name in sides["-later"]} == {"pegs", "bumpers"}
    # 3. What is there is not computed again
    monkeypatch.setattr(figures, "draw_figures", lambda *_: [])
    for name in ("train_models", "evaluate", "best_learner", "train_dynamics"):
        for module in (comparisons, answering, package.models):
            monkeypatch.setattr(module, name, pytest.fail, raising=False)
    assert main(options) == 0
    assert json.loads((folder / "evidence.json").read_text(encoding="utf-8")) == found
    # 4. Its tables
    assert "| law swap |" in evidence_text(found)
    # 5. A damaged result is named
    damaged = folder / "results" / "lines" / "bars.json"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:20])
    assert main(options) == 2
    assert f"{damaged}: damaged, not JSON" in (said := capsys.readouterr().err)
    assert said.rstrip().endswith("remove the file")
    damaged.write_bytes(whole)
    # 6. Scenes of other sizes, and results of other weights, are not mixed with these
    assert main([*options, "--question_learning_rate", "0.1"]) == 2
    assert "made with other settings: question_learning_rate (0.0003 -> 0.1)" in capsys.readouterr().err
    shutil.copyfile(folder / "made/weights/cosmos-0/model.safetensors", folder / "weights/theworld/other.safetensors")
    assert main(options) == 2
    assert "of other weights" in capsys.readouterr().err


def test_too_few_test_scenes_to_read_imagined_ends_are_found_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nano", "evidence", str(tmp_path), "--quick", "--test", '{"pegs": 99, "bumpers": 300}']) == 2
    assert "'pegs': 99" in (told := capsys.readouterr().err)
    assert "expected at least 100 scenes of pegs and bumpers" in told


@pytest.mark.usefixtures("few_steps")
def test_other_dynamics_have_to_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nano", "evidence", str(tmp_path), "--quick", "--dynamics", str(tmp_path / "none")]) == 2
    assert "expected a folder of dynamics" in capsys.readouterr().err


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("option", ["--dynamics", "--checkpoints"])
def test_dynamics_are_different_and_whole(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tmp_path / name for name in ("same", "weaker", "copy", "damaged")]
    for folder in folders:
        shutil.copytree(NANO_WEIGHTS / "cosmos" / "transformer", folder / "transformer")
    for folder in folders[1:3]:
        weaken(folder / "transformer")
    (path,) = (folders[3] / "transformer").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    command = ["nano", "evidence", str(tmp_path / "run"), "--quick", "--test", '{"pegs": 100, "bumpers": 100}', option]
    for given, told in (
        (folders[:1], f"{folders[0]}: has the same dynamics as {NANO_WEIGHTS / 'cosmos'}"),
        (folders[1:3], f"{folders[2]}: has the same dynamics as {folders[1]}"),
        (folders[3:], str(path)),
    ):
        assert main([*command, *map(str, given)]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seeds": (0.5,)}, r"seeds=\[0.5\]: expected different whole numbers"),
        ({"curve": ()}, r"curve=\(\): expected different whole numbers from 1"),
        ({"sampler_steps": (2, 2)}, r"sampler_steps=\(2, 2\): expected different whole numbers from 1"),
        ({"sampler_steps": (0, 2)}, r"sampler_steps=\(0, 2\): expected different whole numbers from 1"),
        ({"futures": -1}, "futures=-1: expected a whole number from 1"),
        ({"labels": "5"}, "labels='5': expected a whole number from 1"),
        ({"seeds": (0, 0)}, r"seeds=\[0, 0\]: expected different whole numbers"),
        ({"seeds": (-1,)}, r"seeds=\[-1\]: expected different whole numbers"),
        ({"dynamics": (Path("a"), Path("a"))}, "dynamics: expected different folders"),
        ({"config": NanoConfig(levels={"pegs": 0})}, "the hardest scenes; leave it out"),
    ],
)
def test_nothing_is_counted_twice_or_made_easier(options: dict[str, Any], told: str) -> None:
    with pytest.raises(TheWorldError, match=told):
        EvidenceSettings(**options)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("job", ["train", "fuse", "evidence"])
def test_two_runs_in_one_folder_are_refused(job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--quick", "--test", '{"pegs": 100, "bumpers": 100}'] if job == "evidence" else ["--smoke"]
    with locked(tmp_path, is_main=True):
        assert main(["nano", job, str(tmp_path), *options]) == 2
    assert "another run uses this folder; wait for its end" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("changed", "told"), [({"image_size": 48}, "image_size=48: expected 32"), ({"world_steps": 2}, "expected 3, as in")]
)
def test_clips_are_those_of_the_models(changed: dict[str, int], told: str, tmp_path: Path) -> None:
    config = replace(TINY.config, **changed)
    with pytest.raises(TheWorldError, match=told):
        train_fusions(tmp_path / "fusions", ["cosmos"], [0], config)
    with pytest.raises(TheWorldError, match=told):
        Experiment(tmp_path / "evidence", replace(TINY, config=config)).check_weights()
    assert not [*tmp_path.glob("*/scenes")]


def test_scenes_of_unknown_settings_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "scenes" / "fusion").mkdir(parents=True)
    with pytest.raises(TheWorldError, match="has scenes of unknown settings; choose another folder"):
        train_fusions(tmp_path, ["cosmos"], [0], TINY.config)
    with pytest.raises(TheWorldError, match=r"seed=\[0, 0\]"):
        train_fusions(tmp_path, ["cosmos"], [0, 0], TINY.config)
