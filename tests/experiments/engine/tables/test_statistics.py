import dataclasses

import numpy as np
import pytest
from scipy import stats

from experiments.engine.tables import statistics
from experiments.engine.tables.statistics import (
    ExampleSums,
    group_intervals,
    means_of,
    paired_seed_interval,
    seed_interval,
)

# 97.5 % quantiles of Student's t, from a printed table, by the number of values.
QUANTILES = {2: 12.706, 3: 4.303, 5: 2.776}


def mean_sums(values, groups=None):
    """Sums of examples whose metric is the mean of ``values``."""
    groups = range(len(values)) if groups is None else groups
    sums = {"score": np.asarray(values, np.float64), "count": np.ones(len(values))}
    return example_sums(sums, [str(group) for group in groups], "photographs")


def example_sums(sums, groups, kind):
    return ExampleSums(sums, range(len(groups)), groups, kind)


def width(interval):
    return interval.high - interval.low


@pytest.mark.parametrize("count", QUANTILES)
def test_an_interval_over_seeds_has_quantiles_of_students_distribution(count):
    values = np.random.default_rng(count).normal(3, 2, count)
    found = seed_interval(values.tolist())
    half = QUANTILES[count] * values.std(ddof=1) / count**0.5
    expected = [values.mean(), values.mean() - half, values.mean() + half]
    assert [found.mean, found.low, found.high] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_one_seed_has_no_interval():
    assert seed_interval([3.0]) is None
    assert paired_seed_interval([3.0], [2.0]) is None


def test_a_paired_interval_equals_the_interval_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    theirs = rng.normal(20, 5, 4)
    ours = theirs + rng.normal(0.5, 0.1, 4)
    found = paired_seed_interval(ours, theirs)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    # In another order of the seeds the variation between seeds would count.
    assert width(paired_seed_interval(ours, theirs[::-1])) > 10 * width(found)


def test_equal_differences_have_an_interval_without_width():
    found = paired_seed_interval([0.3, 0.4, 0.5], [0.1, 0.2, 0.3])
    assert (found.low, found.high) == pytest.approx((0.2, 0.2))


def test_pairs_need_the_same_number_of_seeds():
    with pytest.raises(ValueError, match="zip"):
        paired_seed_interval([1.0, 2.0], [1.0, 2.0, 3.0])


def test_an_interval_over_many_groups_is_nearly_normal():
    values = np.random.default_rng(0).normal(0.2, 1.5, 800)
    found = group_intervals([mean_sums(values)], [mean_sums(0 * values)], means_of)["score"]
    half = 1.96 * values.std() / 800**0.5
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.mean == pytest.approx(half, rel=0.05)
    assert found.mean - found.low == pytest.approx(half, rel=0.05)


def test_examples_of_one_group_do_not_shrink_the_interval():
    values = np.random.default_rng(0).normal(size=40)

    def interval(values, groups):
        ours, theirs = mean_sums(values, groups), mean_sums(0 * values, groups)
        return group_intervals([ours], [theirs], means_of)["score"]

    once = interval(values, range(40))
    copies = interval(np.repeat(values, 9), np.repeat(np.arange(40), 9))
    assert (copies.low, copies.high) == pytest.approx((once.low, once.high))
    independent = interval(np.repeat(values, 9), range(360))
    assert width(independent) == pytest.approx(width(once) / 3, rel=0.1)


def test_both_rows_have_the_same_resamples():
    theirs = np.random.default_rng(0).normal(20, 5, 30)
    found = group_intervals([mean_sums(theirs + 0.25)], [mean_sums(theirs)], means_of)["score"]
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))


def mean_iou(totals):
    matrix = totals["matrix"]
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(-1) + matrix.sum(-2) - right
    return {"mIoU": (right / np.maximum(union, 1)).mean(-1)}


def test_a_metric_may_be_any_function_of_the_totals():
    """The mean IoU, whose groups have different numbers of examples, against a slow loop."""
    rng = np.random.default_rng(0)
    matrices = rng.poisson(3, (2, 60, 3, 3)) + 9 * np.eye(3) * rng.random((2, 60, 1, 1))
    groups = rng.integers(0, 12, 60)
    ours, theirs = (
        example_sums({"matrix": each}, [*map(str, groups)], "scenes") for each in matrices
    )
    found = group_intervals([ours], [theirs], mean_iou)["mIoU"]

    def difference(examples):
        ious = [mean_iou({"matrix": each[examples].sum(0)})["mIoU"] for each in matrices]
        return ious[0] - ious[1]

    assert found.mean == pytest.approx(difference(np.arange(60)))
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    differences = []
    for _ in range(4000):
        drawn = rng.integers(len(members), size=len(members))
        differences.append(difference(np.concatenate([members[group] for group in drawn])))
    low, high = np.percentile(differences, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_metrics_are_averaged_over_runs():
    """The mean IoU of two different networks is not the mean IoU of their mean matrix."""
    rng = np.random.default_rng(0)
    right, wrong = np.array([[9.0, 1], [1, 2]]), np.array([[2.0, 50], [30, 1]])
    matrices = [rng.poisson(each, (40, 2, 2)).astype(float) for each in (right, wrong, 5 * right)]
    groups = [*map(str, range(40))]
    *ours, theirs = (example_sums({"matrix": each}, groups, "scenes") for each in matrices)
    found = group_intervals(ours, [theirs], mean_iou)["mIoU"]

    def difference(examples):
        first, second, baseline = (
            mean_iou({"matrix": each[examples].sum(0)})["mIoU"] for each in matrices
        )
        return (first + second) / 2 - baseline

    printed = difference(np.arange(40))
    assert found.mean == pytest.approx(printed)
    assert found.low < printed < found.high
    of_the_mean = mean_iou({"matrix": matrices[0].sum(0) + matrices[1].sum(0)})["mIoU"]
    baseline = mean_iou({"matrix": matrices[2].sum(0)})["mIoU"]
    assert not found.low <= of_the_mean - baseline <= found.high
    differences = [difference(rng.integers(40, size=40)) for _ in range(2000)]
    low, high = np.percentile(differences, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_resamples_are_computed_in_batches_of_limited_memory(monkeypatch):
    monkeypatch.setattr(statistics, "_NUMBERS_AT_A_TIME", 1000)
    sizes = []

    def metrics(totals):
        sizes.append(totals["matrix"].size)
        return mean_iou(totals)

    matrices = np.random.default_rng(0).random((10, 7, 7))
    sums = example_sums({"matrix": matrices}, [*"abcdefghij"], "scenes")
    group_intervals([sums], [sums], metrics)
    assert max(sizes) <= 1000
    assert sum(sizes) >= 9999 * 49


def test_a_metric_that_is_not_finite_in_a_resample_has_no_interval():
    def metrics(totals):
        with np.errstate(invalid="ignore"):
            return {"whole": totals["score"], "ratio": totals["score"] / totals["score"]}

    sums = mean_sums([0.0] * 9 + [1.0])
    assert [*group_intervals([sums], [sums], metrics)] == ["whole"]


@pytest.mark.parametrize(("groups", "names"), [(1, []), (2, []), (9, []), (10, ["score"])])
def test_fewer_than_ten_groups_have_no_interval(groups, names):
    values = np.arange(30.0)
    sums = mean_sums(values, values.astype(int) % groups)
    assert [*group_intervals([sums], [sums], means_of)] == names


def test_rows_must_have_the_same_examples():
    ours = mean_sums([1.0, 2.0, 3.0])
    # Groups with the same names may have lost different images.
    for changes in ({"groups": ["0", "1", "1"]}, {"records": [0, 1, 3]}, {"kind": "scenes"}):
        theirs = dataclasses.replace(ours, **changes)
        with pytest.raises(ValueError, match="same examples"):
            group_intervals([ours], [theirs], means_of)


@pytest.mark.parametrize("groups", [[], ["a"], ["a", "b", "c"]])
def test_every_example_has_sums_and_a_group(groups):
    with pytest.raises(ValueError, match=r"examples.*'count': 2"):
        example_sums({"count": np.ones(2)}, groups, "photographs")


def test_every_example_has_the_number_of_its_record():
    with pytest.raises(ValueError, match=r"2 examples.*'records': 3"):
        ExampleSums({"count": np.ones(2)}, range(3), ["a", "b"], "photographs")
