import pickle
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.bucketed_order import BucketedOrder

counts = st.tuples(st.integers(0, 40), st.integers(0, 40)).filter(any)
batch_sizes = st.sampled_from([1, 2, 4, 8, 16])
seeds = st.integers(0, 5)


def first(order, length):
    return [order[index] for index in range(length)]


@given(counts, batch_sizes, seeds)
def test_all_examples_of_a_batch_are_from_one_bucket(counts, batch_size, seed):
    order = BucketedOrder(counts, batch_size, seed)
    for batch in range(12):
        drawn = [order[batch * batch_size + place] for place in range(batch_size)]
        assert len({bucket for bucket, _ in drawn}) == 1
        assert all(0 <= number < counts[bucket] for bucket, number in drawn)


@given(counts, batch_sizes, seeds)
def test_after_any_number_of_batches_all_records_of_a_bucket_were_used_equally_often(
    counts, batch_size, seed
):
    order = BucketedOrder(counts, batch_size, seed)
    seen = Counter()
    for batch in range(20):
        seen.update(order[batch * batch_size + place] for place in range(batch_size))
        for bucket, count in enumerate(counts):
            often = [seen[bucket, number] for number in range(count)]
            assert not often or max(often) - min(often) <= 1


@given(counts, batch_sizes, seeds)
def test_in_any_epoch_no_record_is_more_than_a_batch_late(counts, batch_size, seed):
    order = BucketedOrder(counts, batch_size, seed)
    epochs = 3
    drawn = Counter(first(order, epochs * sum(counts) // batch_size * batch_size))
    for bucket, count in enumerate(counts):
        in_bucket = sum(drawn[bucket, number] for number in range(count))
        assert abs(in_bucket - epochs * count) <= 2 * batch_size


@given(counts, seeds)
def test_with_batch_size_1_epochs_are_permutations(counts, seed):
    order = BucketedOrder(counts, 1, seed)
    drawn = first(order, 2 * sum(counts))
    everything = [(bucket, n) for bucket, count in enumerate(counts) for n in range(count)]
    assert sorted(drawn[: sum(counts)]) == sorted(drawn[sum(counts) :]) == everything


def test_epochs_and_seeds_differ_and_buckets_are_mixed():
    order = BucketedOrder((64, 32), 4, seed=0)
    epochs = [first(order, 480)[96 * epoch :][:96] for epoch in range(5)]
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert tuple(first(BucketedOrder((64, 32), 4, seed=1), 96)) != tuple(epochs[0])
    mixes = [tuple(bucket for bucket, _ in epoch[::4]) for epoch in epochs]
    assert len(set(mixes)) == 5
    assert all(sum(mix) == 8 for mix in mixes)
    assert mixes[0] != tuple(sorted(mixes[0]))
    # The order within a bucket also differs between epochs.
    within = [[number for bucket, number in epoch if bucket == 0] for epoch in epochs]
    assert all(sorted(numbers) == list(range(64)) for numbers in within)
    assert len({tuple(numbers) for numbers in within}) == 5


def test_two_buckets_of_equal_size_have_different_permutations():
    drawn = first(BucketedOrder((50, 50), 1, seed=0), 100)
    landscape, portrait = ([n for bucket, n in drawn if bucket == which] for which in (0, 1))
    assert landscape != portrait


def test_random_access_to_a_large_index_is_fast():
    order = BucketedOrder((90_000, 27_266), 16, seed=0)
    assert order[10**12 + 5] == order[10**12 + 5]
    assert len(first(order, 32)) == 32


def test_the_dataset_can_be_pickled_for_the_workers():
    order = BucketedOrder((9, 5), 4, seed=3)
    assert first(pickle.loads(pickle.dumps(order)), 60) == first(order, 60)


@pytest.mark.parametrize("counts", [(), (0, 0), (-1, 4)])
def test_counts_without_records_are_refused(counts):
    with pytest.raises(ValueError, match=rf"counts.*{re.escape(str(list(counts)))}"):
        BucketedOrder(counts, 4, seed=0)


def test_a_batch_size_below_1_is_refused():
    with pytest.raises(ValueError, match=r"batch_size.* 0$"):
        BucketedOrder((3, 3), 0, seed=0)
