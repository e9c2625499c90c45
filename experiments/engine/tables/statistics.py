"""Intervals of differences between the rows of a table, by SciPy.

Two things vary when an experiment is repeated, and each interval shows one of them:

- over seeds: the networks are trained again on the same images, and evaluated on the same images;
- over groups of examples: the same networks are evaluated on other images.

Neither interval covers both. All intervals have a confidence of 95 %.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.engine.evaluation import COUNT

CONFIDENCE = 0.95

# With fewer groups there is no interval over groups.
LEAST_GROUPS = 10

_RESAMPLES = 9_999
# Limit of the numbers in an array of a batch of resamples: 32 MiB of float64.
_NUMBERS_AT_A_TIME = 2**22

# Sums over examples by name, each with any number of leading batch axes.
Totals = Mapping[str, np.ndarray]
MetricsOfTotals = Callable[[Totals], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Attributes:
        mean: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    mean: float
    low: float
    high: float


def seed_interval(values: Sequence[float]) -> Interval | None:
    """Returns the interval of a mean over seeds, by Student's t distribution.

    Args:
        values: value of each run. The runs differ only in their seeds.

    Returns:
        The interval, or None for fewer than two values.
    """
    if len(values) < 2:
        return None
    mean = float(np.mean(values))
    # scipy.stats.ttest_1samp would warn of differences that are almost equal.
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def paired_seed_interval(ours: Sequence[float], theirs: Sequence[float]) -> Interval | None:
    """Returns the interval of a mean difference over pairs of runs with the same seed.

    Args:
        ours: value of each run of a row.
        theirs: values of the baseline's runs, with the same seeds in the same order.

    Returns:
        The interval, or None for fewer than two pairs.
    """
    return seed_interval([our - their for our, their in zip(ours, theirs, strict=True)])


@dataclasses.dataclass(frozen=True)
class ExampleSums:
    """The contribution of each example of an evaluation to the sums from which metrics follow.

    Examples of one group are not independent: crops of one photograph, or images of one object.

    Attributes:
        sums: contributions by the name of the sum, float64 ``[N, ...]``: values of the metrics and
            ``count``, or a confusion matrix. Examples that an evaluation leaves out are missing.
        records: number of the record of each example in the dataset, ``N`` integers.
        groups: name of the group of each example, ``N`` names.
        kind: plural noun for the groups, such as ``"photographs"``.
        note: sentence that says in which way the groups are not independent; empty if they are.

    Raises:
        ValueError: the sums, records and groups do not have one entry for each example, or there
            are no examples.
    """

    sums: Mapping[str, np.ndarray]
    records: Sequence[int]
    groups: Sequence[str]
    kind: str
    note: str = ""

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for arrays of another length."""
        arrays = {**self.sums, "records": self.records}
        lengths = {name: len(array) for name, array in arrays.items()}
        if not self.groups or set(lengths.values()) != {len(self.groups)}:
            raise ValueError(
                f"sums and records must have one entry for each of the {len(self.groups)} "
                f"examples, at least one, got {lengths}"
            )

    @property
    def totals(self) -> dict[str, np.ndarray]:
        """The sums over all examples, ``[...]``."""
        return {name: array.sum(axis=0) for name, array in self.sums.items()}


def same_examples(runs: Sequence[ExampleSums]) -> bool:
    """Whether all runs were evaluated on the same records, which are in the same groups."""
    first, *others = [(list(run.records), list(run.groups), run.kind) for run in runs]
    return all(each == first for each in others)


def means_of(totals: Totals) -> dict[str, np.ndarray]:
    """Returns metrics that are means over examples: each of the totals, divided by ``count``."""
    return {name: total / totals[COUNT] for name, total in totals.items() if name != COUNT}


def group_intervals(
    ours: Sequence[ExampleSums], theirs: Sequence[ExampleSums], metrics: MetricsOfTotals
) -> dict[str, Interval]:
    """Returns the intervals of the differences of metrics between two rows, over groups.

    Groups are drawn with replacement 9,999 times, each time the same groups for all runs of both
    rows. Metrics are computed from each run's totals over the drawn groups, and averaged over the
    runs of a row. The ends of the interval are percentiles of the differences (bootstrap with a
    fixed seed). With few groups, the interval is too narrow.

    Args:
        ours: sums of each run of a row.
        theirs: sums of each run of the baseline, for the same examples.
        metrics: function from totals ``[B, ...]`` of ``B`` resamples to metrics ``[B]``.

    Returns:
        The intervals by the name of the metric; without metrics that are not finite in a resample,
        and empty for fewer than ``LEAST_GROUPS`` groups. ``mean`` is the difference between the
        metrics over all examples, averaged over the runs.

    Raises:
        ValueError: the runs have different examples.
    """
    if not same_examples((*ours, *theirs)):
        raise ValueError("the runs must have the same examples, got different records or groups")
    names, members = np.unique(np.asarray(ours[0].groups), return_inverse=True)
    groups = len(names)
    if groups < LEAST_GROUPS:
        return {}
    rows = [[_by_group(run, members, groups) for run in row] for row in (ours, theirs)]
    compared = list(_metrics_of(rows[0][0], np.ones((1, groups)), metrics))

    def mean(row: Sequence[Totals], times: np.ndarray) -> np.ndarray:
        found = [_metrics_of(run, times, metrics) for run in row]
        return np.mean([[run[name] for name in compared] for run in found], axis=0)

    def difference(drawn: np.ndarray, axis: int) -> np.ndarray:
        del axis  # always the last one
        times = _times_drawn(drawn, groups)
        our, their = (mean(row, times) for row in rows)
        return our - their

    widest = max(groups, *(array[0].size for array in rows[0][0].values()))
    with warnings.catch_warnings():
        # SciPy warns of metrics that are not finite; they are left out below.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found: Any = stats.bootstrap(
            (np.arange(groups),),
            difference,
            n_resamples=_RESAMPLES,
            batch=max(1, _NUMBERS_AT_A_TIME // widest),
            vectorized=True,
            axis=-1,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
    means = difference(np.arange(groups)[None], -1)[:, 0]
    ends = np.stack([means, found.low, found.high], axis=-1)
    return {
        name: Interval(*map(float, each))
        for name, each in zip(compared, ends, strict=True)
        if np.isfinite(each).all()
    }


def _by_group(run: ExampleSums, members: np.ndarray, groups: int) -> Totals:
    """Sums over the examples of each group: float64 ``[G, ...]``."""
    found = {}
    for name, array in run.sums.items():
        found[name] = np.zeros((groups, *array.shape[1:]))
        np.add.at(found[name], members, array)
    return found


def _times_drawn(drawn: np.ndarray, groups: int) -> np.ndarray:
    """How often each resample ``[B, draws]`` holds each group: ``[B, G]``."""
    resamples = len(drawn)
    numbers = drawn + groups * np.arange(resamples)[:, None]
    return np.bincount(numbers.ravel(), minlength=resamples * groups).reshape(resamples, groups)


def _metrics_of(
    run: Totals, times: np.ndarray, metrics: MetricsOfTotals
) -> Mapping[str, np.ndarray]:
    totals = {
        name: (times.astype(np.float64) @ array.reshape(len(array), -1)).reshape(
            len(times), *array.shape[1:]
        )
        for name, array in run.items()
    }
    return metrics(totals)
