import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.detection.model.sampler_config import ANCHORS, PROPOSALS, SamplerConfig
from experiments.detection.model.sampling import Objects, sample
from experiments.engine.config import ConfigError
from tests.compilation import jit

EXAMPLES, ROWS = 24, 5
# Large enough for every example to be drawn.
ALL_ANCHORS = SamplerConfig(2 * EXAMPLES, 0.5, 0.7, 0.3, best_for_each=True)
ALL_PROPOSALS = SamplerConfig(2 * EXAMPLES, 0.5, 0.5, 0.5, best_for_each=False)
FEW = SamplerConfig(8, 0.5, 0.5, 0.25, best_for_each=True)
# More entries than examples, but at most 5 positive ones.
WIDE = SamplerConfig(30, 0.17, 0.25, 0.25, best_for_each=False)
CONFIGS = [ALL_ANCHORS, ALL_PROPOSALS, FEW, WIDE]

run = jit(sample, static_argnums=4)
POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def draw(seed):
    """Examples and objects with multiples of 1/4, for which float32 is exact, including ties.

    Some examples are objects, halves of objects or copies of other examples; some are empty.
    """
    rng = np.random.default_rng(seed)

    def boxes(count):
        corners = rng.integers(0, 80, (count, 2)) / 4
        sides = rng.integers(-2, 60, (count, 2)) / 4
        return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)

    examples, objects = boxes(EXAMPLES), boxes(ROWS)
    examples[:4] = objects[rng.integers(0, ROWS, 4)]
    examples[4:7] = objects[rng.integers(0, ROWS, 3)]
    examples[4:7, 2] = (examples[4:7, 0] + examples[4:7, 2]) / 2
    examples[7:10] = examples[rng.integers(0, EXAMPLES, 3)]
    labels = rng.integers(-1, 4, ROWS).astype(np.int32)
    crowd = rng.random(ROWS) < 0.3
    return examples, rng.random(EXAMPLES) < 0.8, Objects(objects, labels, crowd)


def area(box):
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def shared(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def iou(a, b):
    union = area(a) + area(b) - shared(a, b)
    return shared(a, b) / union if union else 0.0


def roles(examples, valid, objects, config):
    """The role as which each example may be drawn, and its overlap with its object, by loops."""
    examples, boxes = examples.astype(float), objects.boxes.astype(float)
    there = [j for j in range(ROWS) if objects.labels[j] >= 0]
    single = [j for j in there if not objects.crowd[j]]
    usable = [i for i in range(EXAMPLES) if valid[i]]
    best = [max([iou(x, boxes[j]) for j in single], default=-1) for x in examples]
    found = []
    for i, x in enumerate(examples):
        positive = best[i] >= config.positive_iou
        if config.best_for_each:
            for j in single:
                highest = max([iou(examples[n], boxes[j]) for n in usable], default=0)
                positive |= highest > 0 and iou(x, boxes[j]) == highest
        crowded = any(
            objects.crowd[j] and area(x) and shared(x, boxes[j]) / area(x) > 0.7 for j in there
        )
        negative = best[i] < config.negative_iou and not crowded
        role = POSITIVE if positive else NEGATIVE if negative else IGNORED
        found.append(role if valid[i] else IGNORED)
    return np.array(found), best


@pytest.mark.parametrize("config", CONFIGS)
@given(seed=st.integers(0, 2**32))
def test_samples_are_allowed_by_the_loops(config, seed):
    examples, valid, objects = draw(seed)
    expected, best = roles(examples, valid, objects, config)
    found = run(jax.random.key(seed), examples, valid, objects, config)
    index, positive, there = (np.asarray(x) for x in (found.index, found.positive, found.valid))
    # Positive examples first, then negative ones, then padding; each example at most once.
    positives, negatives = index[positive], index[there & ~positive]
    assert list(positive) == [True] * len(positives) + [False] * (config.count - len(positives))
    taken = len(positives) + len(negatives)
    assert list(there) == [True] * taken + [False] * (config.count - taken)
    assert len({*positives, *negatives}) == taken
    assert (expected[positives] == POSITIVE).all()
    assert (expected[negatives] == NEGATIVE).all()
    # The numbers are the largest possible.
    assert len(positives) == min((expected == POSITIVE).sum(), config.max_positives)
    room = config.count - len(positives)
    assert len(negatives) == min((expected == NEGATIVE).sum(), room)
    single = (objects.labels >= 0) & ~objects.crowd
    for i, j in zip(positives, np.asarray(found.matched)[positive], strict=True):
        assert single[j]
        assert iou(examples[i].astype(float), objects.boxes[j].astype(float)) == best[i]
    assert (index >= 0).all()
    assert (index < EXAMPLES).all()


def test_random_inputs_have_examples_of_every_kind():
    """The property above is not trivial."""
    kinds = [roles(*draw(seed), FEW)[0] for seed in range(20)]
    for kind in (POSITIVE, NEGATIVE, IGNORED):
        assert sum((found == kind).any() for found in kinds) > 10
    assert any((found == POSITIVE).sum() > FEW.max_positives for found in kinds)


SQUARE = [0, 0, 10, 10]


def objects_of(boxes, crowd=None, labels=None):
    count = len(boxes)
    return Objects(
        np.float32(boxes),
        np.zeros(count, np.int32) if labels is None else np.int32(labels),
        np.zeros(count, bool) if crowd is None else np.array(crowd),
    )


def drawn(examples, objects, config=ALL_ANCHORS):
    """Indices of the examples drawn as positive and as negative."""
    examples = np.float32(examples)
    found = run(jax.random.key(0), examples, np.ones(len(examples), bool), objects, config)
    index, positive = np.asarray(found.index), np.asarray(found.positive)
    return set(index[positive].tolist()), set(index[np.asarray(found.valid) & ~positive].tolist())


def test_all_examples_that_overlap_an_object_most_are_positive():
    halves = [[0, 0, 5, 10], [5, 0, 10, 10], [0, 0, 4, 10]]
    # The overlaps are 0.5, 0.5 and 0.4: below 0.7, but not below 0.3.
    assert drawn(halves, objects_of([SQUARE])) == ({0, 1}, set())
    assert drawn(halves, objects_of([SQUARE]), ALL_PROPOSALS) == ({0, 1}, {2})


def test_overlaps_that_differ_by_rounding_are_ties():
    """Equal anchors around both ends of an object; one is rounded to the next number."""
    side = np.float32(22.627417)
    examples = np.float32([[0, 0, side, 10], [100 - side, 0, 100, 10], [3, 0, side, 20]])
    examples[1, 0] = np.nextafter(examples[1, 0], np.float32(200))
    objects = objects_of([[0, 0, 100, 10]])
    assert drawn(examples, objects, FEW)[0] == {0, 1}
    # Also for an overlap of a ten-millionth, and then no other example is tied.
    objects = objects_of([[0, 0, 100, 3e-7]])
    positives, _ = drawn([*examples, [0, 10, 100, 20]], objects, FEW)
    assert positives == {0, 1}


def test_an_object_that_overlaps_nothing_has_no_best_example():
    far = [[20, 20, 30, 30], [40, 20, 50, 30], [0, 0, 0, 0]]
    assert drawn(far, objects_of([SQUARE])) == (set(), {0, 1, 2})


def test_an_example_in_a_crowd_is_not_background():
    examples = [[2, 2, 4, 4], [7, 0, 17, 10], [3, 0, 13, 10], [2.75, 0, 12.75, 10]]
    objects = objects_of([SQUARE], crowd=[True])
    # The examples are covered wholly, by 0.3, by 0.7 and by more than 0.7.
    assert drawn(examples, objects) == (set(), {1, 2})
    # Padding is not a crowd.
    assert drawn(examples, objects_of([SQUARE], [True], [-1])) == (set(), {0, 1, 2, 3})


def test_an_object_in_a_crowd_is_still_found():
    examples = [[2, 2, 4, 4], [5, 5, 7, 7]]
    objects = objects_of([[2, 2, 4, 4], SQUARE], crowd=[False, True])
    assert drawn(examples, objects) == ({0}, set())


def test_without_objects_all_are_negative():
    examples, _, objects = draw(0)
    nothing = Objects(objects.boxes, np.full(ROWS, -1, np.int32), objects.crowd)
    for config in (ALL_ANCHORS, ALL_PROPOSALS):
        assert drawn(examples, nothing, config) == (set(), set(range(EXAMPLES)))


def test_without_examples_nothing_is_drawn():
    examples, valid, objects = draw(0)
    found = run(jax.random.key(0), examples, np.zeros_like(valid), objects, FEW)
    assert not found.valid.any()
    assert not found.positive.any()


def test_the_share_of_positives_is_limited_if_all_examples_are_positive():
    examples = np.tile(np.float32(SQUARE), (EXAMPLES, 1))
    positives, negatives = drawn(examples, objects_of([SQUARE] * ROWS), FEW)
    assert len(positives) == FEW.max_positives == 4
    assert not negatives


def test_the_example_with_the_largest_overlap_is_positive_despite_rounding():
    """The largest overlap is compared with overlaps that were computed in the same way."""
    rng = np.random.default_rng(0)
    config = SamplerConfig(1024, 1.0, 0.99, 0.3, best_for_each=True)
    for seed in range(5):
        corners, sides = rng.uniform(0, 300, (540, 2)), rng.uniform(5, 100, (540, 2))
        boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
        objects = objects_of(boxes[512:])
        found = run(jax.random.key(seed), boxes[:512], np.ones(512, bool), objects, config)
        positives = set(np.asarray(found.index)[np.asarray(found.positive)].tolist())
        for each in boxes[512:].astype(float):
            overlaps = [iou(x, each) for x in boxes[:512].astype(float)]
            assert int(np.argmax(overlaps)) in positives


def test_all_candidates_are_equally_likely():
    objects = objects_of([SQUARE] * ROWS)
    examples = np.float32([SQUARE, [20, 20, 30, 30]] * (EXAMPLES // 2))
    draws = 4000
    keys = jax.random.split(jax.random.key(1), draws)
    valid = np.ones(EXAMPLES, bool)
    many = jit(jax.vmap(functools.partial(sample, config=FEW), in_axes=(0, None, None, None)))
    found = many(keys, examples, valid, objects)
    assert found.valid.all()
    index = np.asarray(found.index)
    frequency = np.bincount(index.ravel(), minlength=EXAMPLES) / draws
    # 4 of 12 examples of each kind are drawn; the tolerance is five standard deviations.
    np.testing.assert_allclose(frequency, np.full(EXAMPLES, 1 / 3), atol=0.04)
    # Draws are independent: a pair of one kind has probability 6 / 66, a mixed pair 1 / 9.
    chosen = np.zeros((draws, EXAMPLES))
    np.put_along_axis(chosen, index, 1, axis=1)
    pairs = chosen.T @ chosen / draws
    same_kind = np.add.outer(np.arange(EXAMPLES), np.arange(EXAMPLES)) % 2 == 0
    expected = np.where(same_kind, 6 / 66, 1 / 9)
    others = ~np.eye(EXAMPLES, dtype=bool)
    np.testing.assert_allclose(pairs[others], expected[others], atol=0.03)


def test_under_vmap_each_image_has_its_own_draw():
    drawn = [draw(seed) for seed in range(3)]
    keys = jax.random.split(jax.random.key(0), 3)
    stacked = jax.tree.map(lambda *x: np.stack(x), *drawn)
    many = jit(jax.vmap(functools.partial(sample, config=FEW)))(keys, *stacked)
    for index, each in enumerate(drawn):
        alone = run(keys[index], *each, FEW)
        for name in ("index", "matched", "positive", "valid"):
            np.testing.assert_array_equal(getattr(many, name)[index], getattr(alone, name))


def test_the_counts_of_detectron2_and_mmdet():
    assert (ANCHORS.count, ANCHORS.max_positives) == (256, 128)
    assert (PROPOSALS.count, PROPOSALS.max_positives) == (512, 128)


def test_single_objects_are_neither_padding_nor_crowds():
    objects = Objects(
        jnp.zeros((4, 4)), jnp.array([0, -1, 2, -1]), jnp.array([False, False, True, True])
    )
    assert objects.single.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 0}, r"count.* 0$"),
        ({"positives": 0.0}, r"positives.* 0\.0$"),
        ({"positives": 1.1}, r"positives.* 1\.1$"),
        ({"count": 3}, r"positives.* 3 .* 0\.25$"),
        ({"positive_iou": 0.0}, r"positive_iou.* 0\.0$"),
        ({"positive_iou": 1.5}, r"positive_iou.* 1\.5$"),
        ({"negative_iou": -0.1}, r"negative_iou.* 0\.5.* -0\.1$"),
        ({"negative_iou": 0.6}, r"negative_iou.* 0\.5.* 0\.6$"),
    ],
)
def test_bad_configs(fields, message):
    good = {"count": 8, "positives": 0.25, "positive_iou": 0.5, "negative_iou": 0.5}
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(**{**good, **fields}, best_for_each=False)
