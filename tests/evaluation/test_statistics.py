import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS
from statsmodels.stats.proportion import proportion_confint

from tests.evaluation.arms import make_items
from theworld.evaluation.stats.baseline import folds, majority_baseline
from theworld.evaluation.stats.intervals import bootstrap, interval, jackknife
from theworld.evaluation.stats.significance import compare, sign_flip, smallest_difference


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
    assert few.method == "clt"
    assert 0 <= few.low < few.high == 1


def test_an_item_without_a_cluster_stands_for_itself() -> None:
    assert interval([1.0, 0.0, 1.0], ["", "", ""]).n_clusters == 3
    assert interval([1.0, 0.0, 1.0], ["a", "", "a"]).n_clusters == 2


def test_seeds_widen_the_interval_of_a_mean() -> None:
    items = (np.random.default_rng(1).random(400) < 0.6).astype(float)
    assert interval([items] * 4).se == pytest.approx(interval(items).se, rel=0.03)
    apart = [np.roll(items, 7), 1 - items, items, items]
    assert interval(apart).se > 2 * interval(items).se


@pytest.mark.parametrize(
    ("b", "c", "n", "points", "p"),
    [
        (38, 20, 124, 14.5, 0.025),  # BLINK Relative_Depth: GPT-4o against GPT-4V
        (22, 14, 124, 6.5, 0.24),  # Relative_Depth: GPT-4-Turbo against GPT-4V
        (32, 21, 143, 7.7, 0.17),  # Spatial_Relation: GPT-4o against LLaVA-1.5-7B
    ],
)
def test_comparisons_of_blinks_own_predictions(b: int, c: int, n: int, points: float, p: float) -> None:
    found = compare(*paired(b, c, n))
    assert (found["b"], found["c"], found["n"]) == (b, c, n)
    assert 100 * found["difference"] == pytest.approx(points, abs=0.05)
    assert found["p"] == pytest.approx(p, abs=0.005)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 7), (38, 20), (300, 170), (900, 0)])
def test_single_items_get_the_exact_mcnemar_test(b: int, c: int) -> None:
    ours, theirs = paired(b, c, 1000)
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert sign_flip(ours, theirs) == pytest.approx(expected, rel=1e-6)
    assert sign_flip(theirs, ours) == sign_flip(ours, theirs)


def test_whole_clusters_are_exchanged() -> None:
    """The test agrees with scipy's over all exchanges of clusters of unequal size."""
    rng = np.random.default_rng(5)
    clusters = [str(name) for name in rng.integers(10, size=40)]
    ours, theirs = ((rng.random(40) < share).astype(float) for share in (0.9, 0.4))
    sums = [np.bincount(np.unique(clusters, return_inverse=True)[1], weights=scores) for scores in (ours, theirs)]
    expected = stats.permutation_test(
        sums, lambda a, b: a.sum() - b.sum(), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flip(ours, theirs, clusters) == pytest.approx(expected)
    assert sign_flip(ours, theirs, clusters) > sign_flip(ours, theirs)
    assert sign_flip(ours, theirs, ["a"] * 40) == 1.0


def test_bootstrap_of_a_difference_agrees_with_its_error() -> None:
    found = bootstrap(*paired(38, 20, 124))
    assert found.estimate == pytest.approx(18 / 124)
    differences = np.subtract(*paired(38, 20, 124))
    assert found.se == pytest.approx(stats.sem(differences), rel=0.03)
    assert found.low == pytest.approx(found.estimate - 1.96 * found.se, abs=0.01)
    assert found.low > 0  # as the exact test says
    theirs = stats.bootstrap((differences,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.009)  # one item


def test_bootstrap_keeps_clusters_whole() -> None:
    ours, theirs = paired(30, 10, 80)
    names = [str(number) for number in range(80)]
    single = bootstrap(ours * 5, theirs * 5)
    whole = bootstrap(ours * 5, theirs * 5, names * 5)
    assert whole.n_clusters == 80
    assert whole.se == pytest.approx(single.se * math.sqrt(5), rel=0.05)


def test_bootstrap_of_unequal_clusters_agrees_with_the_robust_error() -> None:
    rng = np.random.default_rng(3)
    names = [str(number) for number in rng.integers(60, size=400) ** 2 // 60]
    scores = rng.random(400) + np.array([float(name) for name in names]) / 60
    found = bootstrap(scores, np.zeros(400), names)
    assert found.se == pytest.approx(interval(scores, names).se, rel=0.06)


def test_bootstrap_is_seeded() -> None:
    arms = paired(9, 4, 40)
    assert bootstrap(*arms, seed=1) == bootstrap(*arms, seed=1)
    assert bootstrap(*arms, seed=1).se != bootstrap(*arms, seed=2).se
    with pytest.raises(ValueError, match="shapes"):
        bootstrap([0.0, 1.0], [0.0, 1.0, 1.0])


def test_bootstrap_draws_the_seeds_of_both_arms() -> None:
    """The variance over seeds is that of their mean, as far as the seeds seen tell it."""
    ours = [[1.0] * 100, [0.0] * 100, [1.0] * 100, [0.0] * 100]
    found = bootstrap(ours, [0.5] * 100)
    assert found.estimate == 0.0
    assert found.se == pytest.approx(0.5 / math.sqrt(4), rel=0.03)
    both = bootstrap(ours, ours)
    assert both.se == pytest.approx(found.se * math.sqrt(2), rel=0.03)


@pytest.mark.parametrize("difference", [-1, 0, 1])
@pytest.mark.parametrize("n", [1, 12, 1000])
def test_no_difference_has_a_width_of_zero(difference: int, n: int) -> None:
    ours, theirs = [float(difference > 0)] * n, [float(difference < 0)] * n
    found = bootstrap(ours, theirs)
    assert found.estimate == difference
    unseen = proportion_confint(0, n, method="wilson")[1] if n > 1 else 1.0
    assert found.high - found.low == pytest.approx(2 * unseen)
    assert -1 <= found.low <= difference <= found.high <= 1
    clustered = bootstrap(ours * 2, theirs * 2, [str(number) for number in range(n)] * 2)
    assert (clustered.low, clustered.high) == pytest.approx((found.low, found.high))


def mean_of_subtasks(scores: list[float], tasks: list[str]):
    def figures(places: np.ndarray) -> dict[str, float]:
        means = [np.mean([scores[n] for n in places if tasks[n] == task]) for task in dict.fromkeys(tasks)]
        return {"mean": float(np.mean(means))}

    return figures


def test_mean_over_subtasks_weighs_them_alike() -> None:
    scores = [1.0, 0.0] * 300 + [1.0] * 12 + [0.0] * 48
    tasks = ["large"] * 600 + ["small"] * 60
    found = jackknife(mean_of_subtasks(scores, tasks), [""] * 660, tasks)["mean"]
    assert (found.n, found.estimate) == (660, pytest.approx((0.5 + 0.2) / 2))
    # The standard error of a stratified mean, from formulas; a group's error has 29 degrees of freedom
    assert found.se == pytest.approx(math.sqrt(0.5 * 0.5 / 600 + 0.2 * 0.8 / 60) / 2, rel=0.3)
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 29) * found.se)


def test_jackknife_of_a_mean_is_the_clustered_error() -> None:
    scores = (np.random.default_rng(2).random(300) < 0.7).astype(float)
    names = [str(n // 10) for n in range(300)]  # 30 clusters: one a group
    found = jackknife(lambda places: {"mean": float(scores[places].mean())}, names, ["a"] * 300)["mean"]
    assert found.se == pytest.approx(interval(scores, names).se, rel=1e-6)


def test_measures_without_spread_keep_a_width() -> None:
    found = jackknife(lambda places: {"share": 1.0, "metres": 2.5}, [""] * 40, ["a"] * 40)
    assert (found["share"].low, found["share"].high) == pytest.approx(proportion_confint(40, 40, method="wilson"))
    assert found["metres"].low == found["metres"].high == 2.5
    alone = jackknife(lambda places: {"share": 1.0}, ["a.jpg"] * 9, ["a"] * 9)["share"]
    assert alone.low < 0.3


def test_the_majority_is_found_in_other_clusters() -> None:
    items = make_items(300, per_picture=3, families=("drop",))  # two in three are "yes"
    assert majority_baseline(items).mean() == pytest.approx(2 / 3)
    fold = folds(items)
    assert all(fold[n] == fold[n + 1] == fold[n + 2] for n in range(0, 300, 3))
    assert len(set(fold.tolist())) == 10


def test_a_majority_that_only_one_image_knows_is_worth_nothing() -> None:
    """Every image has an answer of its own: fitted on the items themselves, the majority would be right."""
    items = make_items(40, per_picture=20, families=("drop",))
    tied = [type(item)(**{**vars(item), "answer": item.cluster, "choices": ()}) for item in items]
    assert majority_baseline(tied).mean() == 0.0


def test_a_majority_where_nothing_else_is_known_is_chance() -> None:
    assert majority_baseline(make_items(6, per_picture=6)).tolist() == [0.5] * 6
    two = make_items(60, families=("a", "b"))
    assert majority_baseline(two).mean() == pytest.approx(majority_baseline(two, pooled=True).mean())


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
