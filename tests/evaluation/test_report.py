"""What a reader gets: the verdict first, every number in Markdown and on the page, images, nothing from elsewhere."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scripts.write_results import calibration_text, on_demand_text
from tests.evaluation.arms import answer_rows, make_items, make_task, write_arm, write_arms
from theworld.data.schema import Message
from theworld.evaluation.ask.arms import ARMS
from theworld.evaluation.report import compare_runs, terminal_report, write_report
from theworld.evaluation.report.examples import draw_examples, find_images, readable, save_images, strip
from theworld.evaluation.report.plots import draw, draw_all
from theworld.evaluation.report.tables import KEY_ROWS, ON_DEMAND, claims, plain, task_tables
from theworld.evaluation.score import read_metrics, task_numbers, write_metrics
from theworld.evaluation.store.predictions import Item
from theworld.evaluation.store.refusals import ArmRun, read_arms
from theworld.evaluation.verdict import correct
from theworld.utils.io import write_json

HOSTILE = "<script>alert(1)</script> & $x$ | y"
ITEMS = make_items(60, 2, families=("drop", HOSTILE))
EVERY = {
    "world": [n % 10 != 0 for n in range(60)],
    "gemma": [n % 2 == 1 for n in range(60)],
    "gemma_tuned": [n % 3 != 0 for n in range(60)],
    "other_image": [n < 30 for n in range(60)],
    "random_encoder": [n % 5 > 1 for n in range(60)],
}


def evaluation(folder: Path, every: dict[str, list[bool]] = EVERY, items: list[Item] = ITEMS, **more: object) -> Path:
    write_arms(folder, items, every, **more)
    write_metrics(folder, make_task(items), items)
    return folder


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = evaluation(tmp_path_factory.mktemp("evaluation"))
    frames = [Image.new("RGB", (32, 32), (number, 0, 0)) for number in range(17)]
    assert write_report(output, {"balls": ITEMS}, lambda item: frames) == output / "report.html"
    return output


class Page(HTMLParser):
    """What a page says, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.links, self.tags = "", list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_what_the_numbers_say(reported: Path) -> None:
    page = Page((reported / "report.html").read_text(encoding="utf-8"))
    for expected in (
        *EVERY,
        "90.0",  # accuracy of the full model
        "+40.0",  # its difference to gemma
        "Gemma 3 without a world, trained alike",
        "always yes",
        "Rollout of the world model, from the current frame on",
        "num_world_steps",
    ):
        assert expected in page.text
    assert page.tags.count("svg") == 2  # the differences and, folded, the calibration
    assert page.tags.count("article") == 8


def test_the_page_needs_nothing_beside_it(reported: Path) -> None:
    text = (reported / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "img" in page.tags
    outside = [link for link in page.links if not link.startswith(("data:image/png;base64,", "#"))]
    assert outside == []
    assert not re.search(r"url\((?!#)|@import", text)
    assert "prefers-color-scheme: dark" in text


def test_text_of_a_data_set_stays_text(reported: Path) -> None:
    text = (reported / "report.html").read_text(encoding="utf-8")
    assert "script" not in Page(text).tags
    assert HOSTILE in Page(text).text
    assert "<script" not in (reported / "report.md").read_text(encoding="utf-8")


def test_markdown_has_the_tables_and_its_figures_lie_beside_it(reported: Path) -> None:
    text = (reported / "report.md").read_text(encoding="utf-8")
    assert "| gemma | +40.0 [+31.7, +46.7] |" in text
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert [link for link in links if link.endswith(".svg")] == ["figures/balls.svg", "figures/balls-calibration.svg"]
    assert all((reported / link).is_file() for link in links)
    for table in task_tables(metrics_of(EVERY)):
        assert len({re.sub(r"\\.", "", line).count("|") for line in table.markdown().splitlines()}) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>&lt;", "&lt;b>&amp;lt;"),
        ("[a](javascript:alert) ![b](http://c)", r"[a\](javascript:alert) ![b\](http://c)"),
        ("a\n| b | `c` *d* _e_ f_g \\", r"a \| b \| \`c\` \*d\* \_e\_ f_g \\"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, expected: str) -> None:
    assert plain(text) == expected


def metrics_of(every: dict[str, list[bool]], items: list[Item] = ITEMS, **more: Any) -> dict[str, Any]:
    runs = {
        arm: [ArmRun(arm, {"identity": {"num_world_steps": more.pop("steps", 2)}}, answer_rows(items, arm, right))]
        for arm, right in every.items()
    }
    return correct({"balls": {"task": "balls", "title": "Balls", **task_numbers(runs, **more)}})["balls"]


def test_the_verdict_of_each_kind_comes_first(tmp_path: Path) -> None:
    """Then the few arms that decide; all else is folded."""
    items = make_items(80, families=("static/where", "predictive/drop"))
    half = [n % 4 < 2 for n in range(80)]
    every = {"world": [True] * 80, **{arm.name: half for arm in ARMS.values() if arm.decides and arm.name != "gemma"}}
    every["gemma"] = [n % 2 == 0 for n in range(80)]  # right on what is static
    write_arms(tmp_path, items, every)
    task = replace(make_task(items), kinds=("static", "predictive"), learn=lambda *_: pytest.fail("learned"))
    metrics = write_metrics(tmp_path, task, items)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert [claim[:2] for claim in claims(metrics)] == [
        ("Static questions", "no difference shown"),
        ("Predictive questions", "helps"),
    ]
    visible = re.sub(r"(?s)<details.*", "", page)
    assert '<p class="claim no-difference-shown">Static questions: <b>no difference shown</b>' in visible
    assert '<p class="claim helps">Predictive questions: <b>helps</b>' in visible
    assert visible.index("<h1>") < visible.index("claim no-diff") < visible.index("<table") < visible.index("<svg")
    assert visible.count("<tr") == KEY_ROWS + 1
    lines = terminal_report(metrics).splitlines()
    assert lines[1].startswith(
        "Static questions: No difference shown: not shown to be better than Plain Gemma 3 (gemma)"
    )
    assert lines[2].startswith("Predictive questions: The world helps: ")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "- Predictive questions: **helps**. The world helps: " in text
    assert text.count("<details>") == text.count("</details>") == page.count("<details>")
    folded = re.findall("<summary>(.*?)</summary>", page)
    assert folded == re.findall("<summary>(.*?)</summary>", text)
    assert {f"Full model against each arm: {kind} questions" for kind in ("Static", "Predictive", "All")} <= set(folded)


def test_kinds_that_miss_the_same_arms_are_told_once(tmp_path: Path) -> None:
    items = make_items(80, families=("static/where", "predictive/drop"))
    write_arms(tmp_path, items, {"world": [True] * 80, "gemma": [n % 4 < 2 for n in range(80)]})
    metrics = write_metrics(tmp_path, replace(make_task(items), kinds=("static", "predictive")), items)
    assert [claim[:2] for claim in claims(metrics)] == [("Static questions, Predictive questions", "not run")]


def test_a_model_without_a_future_has_comparisons_a_verdict_and_a_figure() -> None:
    every = {**EVERY, "other_source": [n % 5 > 2 for n in range(60)]}
    metrics = metrics_of(every, steps=0)
    assert claims(metrics)[0][1] == "helps"
    assert {row["Arm"] for row in task_tables(metrics)[0].rows} == set(every)
    about, svg = draw(metrics)
    assert about.startswith("Full model minus each arm")
    assert ">Plain Gemma 3 *<" in svg


def test_one_arm_alone_still_has_a_figure() -> None:
    about, svg = draw(metrics_of({"gemma": EVERY["gemma"]}))
    assert about.startswith("Accuracy")
    assert ">Plain Gemma 3<" in svg


def test_arms_with_the_same_answers_are_told() -> None:
    metrics = metrics_of({**EVERY, "noise": EVERY["other_image"]})
    arms, differences, *_ = task_tables(metrics)
    for table, column in ((arms, "Arm"), (differences, "Full model against")):
        assert {"noise", "other_image"} <= {row[column] for row in table.rows}
    assert "Same output for every item: other_image = noise." in arms.note


def test_learners_and_traces_are_told() -> None:
    """As `theworld evaluate` leaves them beside the predictions."""
    learner = {"family": "race", "learner": "mlp", "features": "latents", "setting": "wd=0.1", "labels": 80}
    learners = [{**learner, "validation_accuracy": 0.625, "chosen": True}]
    share = {"estimate": 0.5, "low": 0.25, "high": 0.75, "n": 4}
    tracing = {"race": {"n": 4, "imagined_right": share, "wrong": 2, "wrong_follows_truth": None}}
    text = terminal_report({**metrics_of(EVERY), "learners": learners, "tracing": tracing})
    assert re.search(r"race +mlp +latents +wd=0\.1 +80 +62\.5 +yes", text)
    assert re.search(r"race +4 50\.0 \[25\.0, 75\.0\] +2", text)


def test_images_are_kept_for_a_later_report(reported: Path, tmp_path: Path) -> None:
    compare_runs([reported], tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.tags.count("img") == 16  # an image and a rollout each
    assert page.tags.count("figcaption") == 18  # and the two figures


def test_a_model_without_a_future_has_no_rollout(tmp_path: Path) -> None:
    item = Item("a", (Message("user", "What?"),), (Image.new("RGB", (32, 32)),), "red")
    save_images(tmp_path, item, lambda _: [Image.new("RGB", (32, 32))])
    labels = [label for label, _ in find_images(tmp_path, "a")]
    assert labels == ["Image", "Current frame, decoded from the world latents"]


def test_the_imagined_and_the_true_future_are_beside_each_other(tmp_path: Path) -> None:
    clip = tuple(Image.new("RGB", (32, 32), (number, 0, 0)) for number in range(7))
    item = Item("a", (Message("user", "What?"),), clip[2:3], "red", clip=clip, frame=2)
    save_images(tmp_path, item, lambda _: clip[:9])
    labels, paths = zip(*find_images(tmp_path, "a"), strict=True)
    assert labels == ("Image", "Rollout of the world model, from the current frame on", "True frames")
    with Image.open(paths[1]) as imagined, Image.open(paths[2]) as truth:
        assert imagined.size == truth.size
        assert [truth.getpixel((98 * n + 5, 5))[0] for n in range(7)] == [2, 3, 4, 5, 6, 6, 6]
    save_images(tmp_path / "undecoded", item)
    assert [label for label, _ in find_images(tmp_path / "undecoded", "a")] == ["Image", "True frames"]


def test_images_of_a_data_set_keep_their_size(tmp_path: Path) -> None:
    photo = Image.new("RGB", (640, 640))
    save_images(tmp_path, Item("a", (Message("user", "What?"),), (photo,), "red"))
    assert photo.size == (640, 640)


def test_examples_are_ones_that_arms_disagree_on(reported: Path) -> None:
    arms = {name: [arm] for name, arm in read_arms(reported / "balls").items()}
    places, count = draw_examples(arms, "world", EVERY)
    assert len(set(places)) == 8
    expected = [n for n in range(60) if any(EVERY[arm][n] != EVERY["world"][n] for arm in EVERY)]
    assert count == len(expected)
    assert set(places) <= set(expected)
    assert sum(EVERY["world"][place] for place in places) == 4  # half of them against the full model
    assert draw_examples(arms, "world", EVERY) == (places, count)


def test_a_prompt_is_shown_without_its_frame() -> None:
    prompt = (
        "<bos><start_of_turn>user\n<unused0><unused2>*16<unused1><start_of_image><image_soft_token>*256<end_of_image>\n"
        "Is <b> left of <c>?<end_of_turn>\n<start_of_turn>model\n"
    )
    assert readable(prompt) == "Is <b> left of <c>?"


def test_a_rollout_is_shown_from_its_first_to_its_last_frame() -> None:
    sheet = strip([Image.new("RGB", (50, 100), (number, 0, 0)) for number in range(17)])
    assert sheet.size == (9 * 48 + 8 * 2, 96)
    assert [sheet.getpixel((48 * n + 2 * n + 5, 5)) for n in (0, 1, 8)] == [(0, 0, 0), (2, 0, 0), (16, 0, 0)]


def test_the_terminal_begins_with_the_verdict(reported: Path) -> None:
    metrics = write_metrics(reported, make_task(ITEMS), ITEMS)
    lines = terminal_report(metrics).splitlines()
    assert lines[0] == "Do the balls fall?: 60 items"
    assert lines[1] == f"All questions: {metrics['verdicts']['all']['text']}"
    assert any(re.match(r"gemma +\+40\.0 ", line) for line in lines)


def test_settings_are_told_as_they_are(tmp_path: Path) -> None:
    """A whole number stays one beside an arm that has none."""
    write_arm(tmp_path, ITEMS, "gemma", answer_rows(ITEMS, "gemma", EVERY["gemma"]), num_world_steps=None)
    evaluation(tmp_path, {"world": EVERY["world"]}, num_world_steps=2)
    text = write_report(tmp_path).with_suffix(".md").read_text(encoding="utf-8")
    assert "| balls | world | 2 |" in text
    assert "| balls | gemma |  |" in text


def test_warnings_are_told_before_the_numbers(tmp_path: Path) -> None:
    write_arms(tmp_path, ITEMS, {"gemma": EVERY["gemma"]})
    rows = [replace(row, output="hm", parsed=None, score=0.0) for row in answer_rows(ITEMS, "world", EVERY["world"])]
    write_arm(tmp_path, ITEMS, "world", rows)
    write_metrics(tmp_path, make_task(ITEMS), ITEMS)
    write_report(tmp_path)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert text.index("world: 60 of 60 answers could not be parsed") < text.index("Full model against")


def test_the_figure_follows_the_numbers() -> None:
    drawn = draw(metrics_of(EVERY))
    assert drawn == draw(metrics_of(EVERY))  # no date, no random ids
    assert drawn != draw(metrics_of({**EVERY, "world": EVERY["gemma_tuned"]}))


UNSURE = {**EVERY, "world_off": EVERY["gemma"], "futures": EVERY["world"]}


def test_calibration_is_shown(tmp_path: Path) -> None:
    """Its error beside the Brier score of each arm, and curves of the full model and the arms that belong to it."""
    page = write_report(evaluation(tmp_path, UNSURE)).read_text(encoding="utf-8")
    arms = read_metrics(tmp_path)["balls"]["arms"]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "mean Brier (lower is better) | calibration error (lower is better) |" in text
    row = (
        f"{arms['world']['figures']['brier']['mean']:.3f} (n=60) | {arms['world']['calibration']['error']:.3f} (n=60) |"
    )
    assert row in text
    assert len({arm["calibration"]["error"] for arm in arms.values()}) > 1
    figure = re.search(r"(?s)<details><summary>Calibration</summary>(.*?)</details>", page)
    assert figure
    for name in UNSURE:
        assert (f">{arms[name]['label']}<" in figure[1]) == (name in ("world", "futures", "world_off", "gemma"))


def test_rollouts_on_demand_are_shown(tmp_path: Path) -> None:
    page = write_report(evaluation(tmp_path, UNSURE)).read_text(encoding="utf-8")
    folded = re.search(f"(?s)<details><summary>{ON_DEMAND}</summary>(.*?)</details>", page)
    assert folded
    assert all(tag in folded[1] for tag in ("<svg", "<table"))
    assert page.count(f"<summary>{ON_DEMAND}</summary>") == 1
    assert (tmp_path / "figures" / "balls-rollouts-on-demand.svg").is_file()
    # Points of one share are one row, with all that they are
    low, high = ({"rollouts": share, "accuracy": 0.5 + share, "margin": share} for share in (0.0, 0.4))
    metrics = metrics_of(EVERY) | {"on_demand": {"curve": [low, high], "best": high, "at_margin": high}}
    [table] = [table for table in task_tables(metrics) if table.title == ON_DEMAND]
    assert [line.split() for line in table.terminal().splitlines()[2:]] == [
        ["0.0", "50.0", "0"],
        ["40.0", "90.0", "0.4", "best,", "model's", "margin"],
    ]
    moved = metrics | {"on_demand": {"curve": [low, high], "best": low, "at_margin": high}}
    assert draw_all(metrics)[ON_DEMAND] != draw_all(moved)[ON_DEMAND]


def test_metrics_of_an_earlier_version_have_neither() -> None:
    metrics = metrics_of(EVERY)
    before = set(draw_all(metrics))
    del metrics["on_demand"]
    for arm in metrics["arms"].values():
        del arm["calibration"]
    assert before - set(draw_all(metrics)) == {"Calibration"}
    assert ON_DEMAND not in {table.title for table in task_tables(metrics)}
    assert calibration_text(metrics) == on_demand_text(metrics) == ""


def test_the_page_of_results_has_both_where_they_were_measured(tmp_path: Path) -> None:
    metrics = read_metrics(evaluation(tmp_path, UNSURE))["balls"]
    rows = calibration_text(metrics).splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [
        metrics["arms"][name]["label"] for name in ("world", "futures", "world_off", "gemma")
    ]
    assert f" {metrics['arms']['gemma']['calibration']['error']:.3f} |" in rows[-1]
    best = metrics["on_demand"]["best"]
    assert f"| best | {100 * best['rollouts']:.1f} | {100 * best['accuracy']:.1f} |" in on_demand_text(metrics)


def test_rollouts_on_demand_are_those_of_the_first_run(tmp_path: Path) -> None:
    """Never of two checkpoints: a run is paired with its own answers with the world off."""
    both = evaluation(tmp_path / "both", UNSURE, weights="a")
    alone = evaluation(tmp_path / "alone", {"world": EVERY["gemma_tuned"]}, weights="b")
    found = [compare_runs(runs, tmp_path / "report").sections[0] for runs in ([both, alone], [alone, both])]
    assert [ON_DEMAND in section.figures for section in found] == [True, False]
    assert found[0].metrics["on_demand"] == read_metrics(both)["balls"]["on_demand"]
    seeds = compare_runs([alone, both], tmp_path / "report", ["ours"] * 2).sections[0]
    assert seeds.metrics["arms"]["ours/world"]["seeds"] == 2
    assert seeds.metrics["on_demand"] == read_metrics(both)["balls"]["on_demand"]


def test_runs_are_compared_by_label(tmp_path: Path) -> None:
    ours = evaluation(tmp_path / "ours", {"world": EVERY["world"], "gemma": EVERY["gemma"]})
    theirs = evaluation(tmp_path / "theirs", {"world": EVERY["gemma_tuned"], "gemma": EVERY["gemma"]})
    report = compare_runs([ours, theirs], tmp_path / "both")
    metrics = report.sections[0].metrics
    assert list(metrics["arms"]) == [
        "ours/world",
        "ours/gemma",
        "theirs/world",
    ]  # the control that both have is shown once
    assert metrics["full"] == "ours/world"
    assert metrics["comparisons"]["all"]["theirs/world"]["b"] == sum(
        a and not b for a, b in zip(EVERY["world"], EVERY["gemma_tuned"], strict=True)
    )
    page = Page((tmp_path / "both" / "report.html").read_text(encoding="utf-8"))
    assert "ours, among all arms: All questions: not run" in page.text
    assert "theirs (theirs) by itself: All questions: not run" in page.text
    assert page.text.index("theirs: World, rollout (full model)") < page.text.index("Warnings")


def test_labels_and_answers_stay_text(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {"world": EVERY["world"]})
    rows = [replace(row, output=HOSTILE) for row in answer_rows(ITEMS, "world", EVERY["gemma"])]
    write_arm(tmp_path / "two", ITEMS, "world", rows)
    write_metrics(tmp_path / "two", make_task(ITEMS), ITEMS)
    label = "<img src=x onerror=alert(1)>[a](javascript:alert(1))"
    compare_runs([one, tmp_path / "two"], tmp_path / "both", ["ours", label])
    page, text = ((tmp_path / "both" / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    figure = (tmp_path / "both" / "figures" / "balls.svg").read_text(encoding="utf-8")
    for written in (page, text, figure):
        assert "<img src=x" not in written
        assert "<script" not in written
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    assert f"{label}: World, rollout (full model)" in Page(page).text


def test_seeds_of_one_label(tmp_path: Path) -> None:
    runs = [
        evaluation(tmp_path / f"{n}", {"world": [k % 10 != n for k in range(60 - n)] + [False] * n}, seed=n)
        for n in range(3)
    ]
    metrics = compare_runs(runs, tmp_path / "all", ["ours"] * 3).sections[0].metrics
    arm = metrics["arms"]["ours/world"]
    assert arm["seeds"] == 3
    accuracies = [54, 53, 52]
    assert arm["accuracy"]["estimate"] == pytest.approx(sum(accuracies) / 180)
    assert arm["between_seed_sd"] == pytest.approx(1 / 60)
    assert "SD of seeds" in (tmp_path / "all" / "report.md").read_text(encoding="utf-8")


def test_measures_of_a_task_outside_the_package_are_compared(tmp_path: Path) -> None:
    """Nothing but its metrics knows how they are computed; over seeds they have a mean, and a rerun is no seed."""
    runs = [
        evaluation(tmp_path / f"{n}", {"world": [k % (3 + n) != 0 for k in range(60)]}, weights=weights, seed=0)
        for n, weights in ((0, "a"), (1, "b"))
    ]
    stored = [read_metrics(run)["balls"]["arms"]["world"]["measures"]["share_yes"] for run in runs]
    assert stored[0]["estimate"] != stored[1]["estimate"]
    section = compare_runs(runs, tmp_path / "both").sections[0]
    assert [arm["measures"]["share_yes"] for arm in section.metrics["arms"].values()] == stored
    assert "share yes" in (tmp_path / "both" / "report.md").read_text(encoding="utf-8")
    again = evaluation(tmp_path / "again", {"world": [k % 3 != 0 for k in range(60)]}, weights="a", seed=0)
    arms = compare_runs([*runs, again], tmp_path / "all", ["ours"] * 3).sections[0].metrics["arms"]
    measure = arms["ours/world"]["measures"]["share_yes"]
    for key in ("estimate", "low", "high"):
        assert measure[key] == pytest.approx((stored[0][key] + stored[1][key]) / 2)
    assert measure["n"] == 60


def test_learners_and_traces_of_every_run_are_told(tmp_path: Path) -> None:
    runs: list[Path] = []
    for name, found in (("ours", 0.625), ("theirs", 0.5)):
        write_json(tmp_path / name / "balls" / "learners.json", [{"family": "race", "validation_accuracy": found}])
        write_json(tmp_path / name / "balls" / "tracing.json", {"race": {"imagined_right": found}})
        runs.append(evaluation(tmp_path / name, {"world": EVERY["world" if name == "ours" else "gemma_tuned"]}))
    metrics = compare_runs(runs, tmp_path / "both").sections[0].metrics
    text = terminal_report(metrics)
    for name, shown in (("ours", "62.5"), ("theirs", "50.0")):
        assert re.search(rf"Static learners: {name} \({name}\)\n.*\nrace +{shown}\n", text)
        assert re.search(rf"imagined future\?: {name} \({name}\)\n.*\nrace +{shown}(\n|$)", text)


def test_one_item_shows_no_difference(tmp_path: Path) -> None:
    """Its interval is all that a difference can be."""
    items = make_items(1)
    evaluation(tmp_path, {"world": [True], "gemma": [False]}, items)
    text = write_report(tmp_path).with_suffix(".md").read_text(encoding="utf-8")
    assert "| gemma | +100.0 (too few items) |" in text


def test_a_rerun_is_no_second_seed(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {"world": EVERY["world"]}, weights="a")
    two = evaluation(tmp_path / "two", {"world": EVERY["world"], "gemma": EVERY["gemma"]}, weights="a")
    arms = compare_runs([one, two], tmp_path / "both", ["ours"] * 2).sections[0].metrics["arms"]
    assert {name: arm["seeds"] for name, arm in arms.items()} == {"ours/world": 1, "ours/gemma": 1}
    with pytest.raises(ValueError, match="given twice"):
        compare_runs([one, one], tmp_path / "both")


def test_two_models_that_share_a_control_are_compared(tmp_path: Path) -> None:
    shared = {"gemma": EVERY["gemma"]}
    write_arms(tmp_path / "ours", ITEMS, shared, weights="base")
    ours = evaluation(tmp_path / "ours", {"world": EVERY["world"]}, weights="a")
    write_arms(tmp_path / "theirs", ITEMS, shared, weights="base")
    theirs = evaluation(tmp_path / "theirs", {"world": EVERY["random_encoder"]}, weights="b")
    section = compare_runs([ours, theirs], tmp_path / "both").sections[0]
    assert [row["Arm"] for row in section.tables[0].rows][:-1] == ["ours/world", "ours/gemma", "theirs/world"]


def test_runs_that_happen_to_have_one_name_are_no_seeds(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a" / "eval", {"world": EVERY["world"]})
    two = evaluation(tmp_path / "b" / "eval", {"world": EVERY["gemma"]})
    arms = compare_runs([one, two], tmp_path / "both").sections[0].metrics["arms"]
    assert [arm["seeds"] for arm in arms.values()] == [1, 1]


def test_runs_on_other_items_are_refused(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", {"world": EVERY["world"]})
    fewer = ITEMS[:50]
    two = evaluation(tmp_path / "two", {"world": EVERY["gemma"][:50]}, fewer)
    with pytest.raises(ValueError, match="were asked other items"):
        compare_runs([one, two], tmp_path / "both")


def test_a_judge_is_told_beside_the_rules(tmp_path: Path) -> None:
    evaluation(tmp_path, {"world": EVERY["world"]})
    summary = {
        **{"items": 60, "judged": 57, "unreadable": 2, "failed": 1, "not_asked": 0, "agreement": 0.5},
        "accuracy": {"estimate": 0.375, "low": 0.25, "high": 0.5},
    }
    write_json(tmp_path / "balls" / "world" / "judges" / "some-model" / "summary.json", summary)
    write_report(tmp_path)
    row = "| world | some-model | 37.5 [25.0, 50.0] | 50.0 | 57 | 2 | 1 | 0 |"
    assert row in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Language models as judges" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_is_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no metrics of any task"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="1 labels for 2 runs"):
        compare_runs([tmp_path / "a", tmp_path / "b"], tmp_path, ["ours"])


def test_evaluations_of_before_calibration_are_compared(tmp_path: Path) -> None:
    """Their metrics lack what was added since, and their predictions have no Brier scores."""
    arms = {name: EVERY[name] for name in ("world", "gemma")}
    runs = [evaluation(tmp_path / name, arms) for name in ("old", "new")]
    path = next(runs[0].glob("*/metrics.json"))
    metrics = json.loads(path.read_text(encoding="utf-8"))
    for told in (metrics, *metrics["arms"].values()):
        for name in ("on_demand", "calibration"):
            told.pop(name, None)
    path.write_text(json.dumps(metrics), encoding="utf-8")
    assert terminal_report(compare_runs(runs[:1], tmp_path / "alone").sections[0].metrics)
    for order in (runs, runs[::-1]):
        assert terminal_report(compare_runs(order, tmp_path / "both").sections[0].metrics)
    assert write_report(runs[0]).is_file()
