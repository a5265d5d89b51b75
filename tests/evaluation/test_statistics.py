import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.proportion import proportion_confint

from theworld.evaluation.stats.significance import (
    bootstrap_difference,
    holm,
    interval,
    mcnemar,
    over_seeds,
    smallest_difference,
    stratified_bootstrap,
)


def paired(b: int, c: int, n: int) -> tuple[list[float], list[float]]:
    """Scores of two arms: `b` right with the first only, `c` with the second only."""
    both = n - b - c
    return [1.0] * b + [0.0] * c + [1.0] * both, [0.0] * b + [1.0] * c + [1.0] * both


def test_few_right_and_wrong_answers_get_wilsons_interval() -> None:
    found = interval([1.0] * 64 + [0.0] * 60)
    assert (found.method, found.n, found.n_clusters) == ("wilson", 124, 124)
    assert (found.low, found.high) == pytest.approx(proportion_confint(64, 124, method="wilson"))
    assert found.estimate == 64 / 124


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_wilsons_interval_stays_inside_and_open_at_the_ends(score: float) -> None:
    found = interval([score] * 20)
    assert 0 <= found.low < found.high <= 1
    assert found.high - found.low > 0.1


def test_three_hundred_answers_get_the_normal_interval() -> None:
    scores = [1.0] * 200 + [0.0] * 100
    found = interval(scores)
    assert found.method == "clt"
    assert found.se == pytest.approx(stats.sem(scores))
    assert found.high - found.estimate == pytest.approx(1.968 * found.se, rel=1e-3)
    assert interval(scores[:299]).method == "wilson"


def test_few_measures_get_students_interval() -> None:
    scores = [0.1, 0.5, 0.2, 1.4]
    found = interval(scores)
    assert found.method == "t"
    expected = stats.t.interval(0.95, 3, loc=np.mean(scores), scale=stats.sem(scores))
    assert (found.low, found.high) == pytest.approx(expected)


def test_repeated_clusters_get_the_cluster_robust_error() -> None:
    rng = np.random.default_rng(0)
    clusters = [f"{number}.jpg" for number in rng.integers(40, size=500)]
    level = {name: rng.random() for name in clusters}
    scores = np.array([float(rng.random() < level[name]) for name in clusters])
    found = interval(scores, clusters)
    assert (found.method, found.n, found.n_clusters) == ("clustered", 500, 40)
    groups = np.unique(clusters, return_inverse=True)[1]
    fit = OLS(scores, np.ones(500)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    assert found.se == pytest.approx(fit.bse[0])
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int()[0]))
    assert found.se > 1.5 * interval(scores).se


def test_a_repeated_question_is_no_new_evidence() -> None:
    scores, names = [1.0, 0.0, 1.0, 1.0, 0.0], list("abcde")
    assert interval(scores * 4, names * 4).se == pytest.approx(interval(scores).se)


def test_alike_scores_of_few_pictures_are_not_certain() -> None:
    found = interval([1.0] * 400, ["a.jpg", "b.jpg"] * 200)
    assert found.method == "wilson over clusters"
    assert (found.low, found.high) == pytest.approx(proportion_confint(2, 2, method="wilson"))
    one = interval([1.0] * 30 + [0.0] * 10, ["a.jpg"] * 40)
    assert one.method == "wilson over clusters"
    assert (one.low, one.high) == pytest.approx(proportion_confint(0.75, 1, method="wilson"))


def test_shares_of_one_item_have_an_interval_within_bounds() -> None:
    """Of a family with one question, on which two seeds disagree."""
    found = interval([0.5])
    assert (found.low, found.high) == pytest.approx(proportion_confint(0.5, 1, method="wilson"))
    alike = interval([1 / 3] * 7)
    assert (alike.low, alike.high) == pytest.approx(proportion_confint(7 / 3, 7, method="wilson"))
    few = interval([0.5, 1.0, 1.0])
    assert few.method == "t"
    assert 0 <= few.low < few.high == 1


def test_an_item_without_a_cluster_stands_for_itself() -> None:
    assert interval([1.0, 0.0, 1.0], ["", "", ""]).n_clusters == 3
    assert interval([1.0, 0.0, 1.0], ["a", "", "a"]).n_clusters == 2


@pytest.mark.parametrize(
    ("scores", "clusters", "message"),
    [
        ([], None, "expected a list of numbers"),
        ([1.0, math.nan], None, "1 of 2 are not finite"),
        ([1.0], ["a", "b"], "1 scores with 2 clusters"),
        ([0.5, 1.2], ["a", "a"], "at least two clusters"),
    ],
)
def test_scores_without_an_interval_are_refused(scores: list[float], clusters: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(scores, clusters)


@pytest.mark.parametrize(
    ("b", "c", "n", "points", "p"),
    [
        (38, 20, 124, 14.5, 0.025),  # BLINK Relative_Depth: GPT-4o against GPT-4V
        (22, 14, 124, 6.5, 0.24),  # Relative_Depth: GPT-4-Turbo against GPT-4V
        (32, 21, 143, 7.7, 0.17),  # Spatial_Relation: GPT-4o against LLaVA-1.5-7B
    ],
)
def test_mcnemar_on_blinks_own_predictions(b: int, c: int, n: int, points: float, p: float) -> None:
    found = mcnemar(*paired(b, c, n))
    assert (found.b, found.c, found.n) == (b, c, n)
    assert 100 * found.difference == pytest.approx(points, abs=0.05)
    assert found.p == pytest.approx(p, abs=0.005)


def test_mcnemar_has_a_side_and_an_end() -> None:
    ours, theirs = paired(12, 3, 50)
    assert mcnemar(theirs, ours).difference == -mcnemar(ours, theirs).difference
    assert mcnemar(theirs, ours).p == mcnemar(ours, theirs).p
    assert mcnemar(ours, ours).p == 1.0
    with pytest.raises(ValueError, match="bootstrap_difference"):
        mcnemar([0.5, 1.0], [0.0, 1.0])
    with pytest.raises(ValueError, match="2 scores against 3"):
        mcnemar([0.0, 1.0], [0.0, 1.0, 1.0])


def test_bootstrap_of_a_difference_agrees_with_its_error() -> None:
    found = bootstrap_difference(*paired(38, 20, 124))
    assert found.estimate == pytest.approx(18 / 124)
    differences = np.subtract(*paired(38, 20, 124))
    assert found.se == pytest.approx(stats.sem(differences), rel=0.03)
    assert found.low == pytest.approx(found.estimate - 1.96 * found.se, abs=0.01)
    assert found.low > 0  # as the exact test says


def test_bootstrap_keeps_clusters_whole() -> None:
    ours, theirs = paired(30, 10, 80)
    names = [str(number) for number in range(80)]
    single = bootstrap_difference(ours * 5, theirs * 5)
    whole = bootstrap_difference(ours * 5, theirs * 5, names * 5)
    assert whole.n_clusters == 80
    assert whole.se == pytest.approx(single.se * math.sqrt(5), rel=0.05)


def test_bootstrap_of_unequal_clusters_agrees_with_the_robust_error() -> None:
    rng = np.random.default_rng(3)
    names = [str(number) for number in rng.integers(60, size=400) ** 2 // 60]
    scores = rng.random(400) + np.array([float(name) for name in names]) / 60
    found = bootstrap_difference(scores, np.zeros(400), names)
    assert found.se == pytest.approx(interval(scores, names).se, rel=0.06)


def test_bootstrap_is_seeded() -> None:
    arms = paired(9, 4, 40)
    assert bootstrap_difference(*arms, seed=1) == bootstrap_difference(*arms, seed=1)
    assert bootstrap_difference(*arms, seed=1).se != bootstrap_difference(*arms, seed=2).se


def test_draws_do_not_depend_on_how_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap_difference(*paired(9, 4, 40), resamples=500)
    monkeypatch.setattr("theworld.evaluation.stats.intervals._CHUNK", 1000)
    assert bootstrap_difference(*paired(9, 4, 40), resamples=500) == whole


def test_mean_over_subtasks_weighs_them_alike() -> None:
    scores = [1.0] * 90 + [0.0] * 10 + [1.0] * 2 + [0.0] * 8
    tasks = ["large"] * 100 + ["small"] * 10
    found = stratified_bootstrap(scores, tasks)
    assert found.estimate == pytest.approx((0.9 + 0.2) / 2)
    assert found.se == pytest.approx(math.sqrt(0.9 * 0.1 / 100 + 0.2 * 0.8 / 10) / 2, rel=0.05)
    with pytest.raises(ValueError, match="stratum 'b' has a single cluster"):
        stratified_bootstrap([1.0, 0.0, 1.0], ["a", "a", "b"])
    with pytest.raises(ValueError, match="3 scores with 1 strata"):
        stratified_bootstrap([1.0, 0.0, 1.0], ["a"])


def test_subtasks_of_constant_accuracy_add_no_width() -> None:
    found = stratified_bootstrap([1.0] * 50 + [0.0] * 50, ["right"] * 50 + ["wrong"] * 50)
    assert (found.estimate, found.low, found.high) == (0.5, 0.5, 0.5)


def test_difference_over_subtasks() -> None:
    ours, theirs = [1.0] * 10 + [0.0] * 30, [0.0] * 10 + [0.0] * 30
    assert bootstrap_difference(ours, theirs, strata=["a"] * 10 + ["b"] * 30).estimate == pytest.approx(0.5)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    with pytest.raises(ValueError, match="nan"):
        holm([0.1, math.nan])


@pytest.mark.parametrize(
    ("n", "points"),
    [
        (124, (7.9, 11.1, 13.6)),  # BLINK Relative_Depth
        (143, (7.3, 10.4, 12.7)),  # BLINK Spatial_Relation
        (224, (5.9, 8.3, 10.2)),  # VSR random test, seen neither by caption nor by picture
        (267, (5.4, 7.6, 9.3)),
        (657, (3.5, 4.9, 6.0)),  # SpatialRGPT-Bench, qualitative
        (749, (3.2, 4.6, 5.6)),  # SpatialRGPT-Bench, quantitative
        (1222, (2.5, 3.6, 4.4)),  # VSR zeroshot test
        (1901, (2.0, 2.9, 3.5)),  # BLINK
        (2195, (1.9, 2.7, 3.3)),  # VSR random test
    ],
)
def test_smallest_difference(n: int, points: tuple[float, float, float]) -> None:
    found = [100 * smallest_difference(n, discordance) for discordance in (0.1, 0.2, 0.3)]
    assert found == pytest.approx(points, abs=0.051)


def test_smallest_difference_is_found_with_the_power_it_names() -> None:
    n, discordance = 500, 0.2
    difference = smallest_difference(n, discordance)
    shares = ((discordance + difference) / 2, (discordance - difference) / 2, 1 - discordance)
    b, c, _ = np.random.default_rng(0).multinomial(n, shares, size=4000).T
    found = np.mean(np.abs(b - c) / np.sqrt(b + c) > 1.96)  # McNemar's test without correction
    assert found == pytest.approx(0.8, abs=0.02)


def test_a_set_too_small_shows_nothing() -> None:
    assert smallest_difference(1, 0.5) == smallest_difference(20, 0.1) == 1.0
    with pytest.raises(ValueError, match="discordance 0"):
        smallest_difference(100, 0.0)


def test_seeds_and_items_spread_apart() -> None:
    rng = np.random.default_rng(1)
    items = (rng.random(400) < 0.6).astype(float)
    alike = over_seeds([items, items, items])
    assert alike.seed_sd == 0.0
    assert alike.item_se == pytest.approx(interval(items).se)
    apart = over_seeds([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert apart.means == (0.5, 0.5, 1.0)
    assert apart.mean == pytest.approx(2 / 3)
    assert apart.seed_sd == pytest.approx(np.std([0.5, 0.5, 1.0], ddof=1))
    assert apart.item_se == pytest.approx(0.0)
    with pytest.raises(ValueError, match="1 seeds"):
        over_seeds([[1.0, 0.0]])
    with pytest.raises(ValueError, match=r"2 seeds with \[2, 3\] items"):
        over_seeds([[1.0, 0.0], [1.0, 0.0, 1.0]])
