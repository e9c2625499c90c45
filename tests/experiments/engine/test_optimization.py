import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.engine.optimization import learning_rate, make_optimizer
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig


def rates(optimizer, schedule, steps, batch_size=256, steps_per_epoch=1):
    rate = learning_rate(optimizer, schedule, batch_size, steps_per_epoch)
    return [float(rate(step)) for step in steps]


def test_the_recipe_of_goyal_et_al():
    """Reference 11: 0.1 per 256 images, 5 epochs of warm-up from 0.1, a tenth at 30, 60, 80."""
    optimizer = OptimizerConfig(learning_rate=0.1, reference_batch_size=256)
    schedule = ScheduleConfig(
        90, "epoch", warmup=5, warmup_from=0.1, decay="step", milestones=(30, 60, 80)
    )
    epochs = [0, 2.5, 5, 29.9, 30, 59.9, 60, 80, 89.9]
    found = rates(optimizer, schedule, [round(1000 * e) for e in epochs], 1024, 1000)
    expected = [0.1, 0.25, 0.4, 0.4, 0.04, 0.04, 0.004, 0.0004, 0.0004]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_cosine_poly_and_constant():
    optimizer = OptimizerConfig(learning_rate=2.0)
    steps = [0, 5, 10, 55, 100]
    cosine = rates(optimizer, ScheduleConfig(100, warmup=10, decay="cosine"), steps)
    np.testing.assert_allclose(cosine, [0, 1, 2, 1, 0], atol=1e-6)
    poly = rates(optimizer, ScheduleConfig(100, decay="poly", power=0.9), [0, 50, 75])
    np.testing.assert_allclose(poly, [2, 2 * 0.5**0.9, 2 * 0.25**0.9], rtol=1e-6)
    above = rates(optimizer, ScheduleConfig(100, decay="poly", lowest=0.5), [0, 50, 100])
    np.testing.assert_allclose(above, [2, 0.5 + 1.5 * 0.5**0.9, 0.5], rtol=1e-6)
    assert rates(optimizer, ScheduleConfig(100, decay="constant"), [0, 99]) == [2, 2]


def test_a_lowest_learning_rate_above_the_peak_or_without_effect_is_refused():
    schedule = ScheduleConfig(100, decay="poly", lowest=0.1)
    optimizer = OptimizerConfig(learning_rate=0.1, reference_batch_size=256)
    with pytest.raises(ConfigError, match=r"lowest .* 0\.0125, got 0\.1"):
        learning_rate(optimizer, schedule, batch_size=32, steps_per_epoch=1)
    with pytest.raises(ConfigError, match=r"lowest .*poly.* 0\.1"):
        ScheduleConfig(100, decay="cosine", lowest=0.1)


def test_milestones_that_share_a_step_both_count():
    schedule = ScheduleConfig(4, "epoch", decay="step", milestones=(1.1, 1.2))
    found = rates(OptimizerConfig(learning_rate=1.0), schedule, [1, 3], steps_per_epoch=2)
    np.testing.assert_allclose(found, [1, 0.01], rtol=1e-6)


def test_a_decreasing_warm_up_is_refused():
    schedule = ScheduleConfig(100, warmup=10, warmup_from=0.1)
    optimizer = OptimizerConfig(learning_rate=0.1, reference_batch_size=256)
    with pytest.raises(ConfigError, match=r"warmup_from .* 0\.0125 for .* 32, .* 0\.1"):
        learning_rate(optimizer, schedule, batch_size=32, steps_per_epoch=1)


def test_weight_decay_excludes_biases_and_norms():
    params = {"kernel": jnp.full((2, 2), 3.0), "scale": jnp.full(2, 3.0)}
    gradients = jax.tree.map(jnp.zeros_like, params)
    for config in (
        OptimizerConfig("sgd", weight_decay=0.1, momentum=0.0),
        OptimizerConfig("adam", weight_decay=0.1),
    ):
        optimizer = make_optimizer(config, lambda step: 0.5)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.5 * 0.1 * 3, rtol=1e-6)
        np.testing.assert_array_equal(updates["scale"], 0)
    everything = OptimizerConfig("sgd", weight_decay=0.1, momentum=0.0, decay_all=True)
    optimizer = make_optimizer(everything, lambda step: 0.5)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["scale"], -0.5 * 0.1 * 3, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_frozen_parameters_do_not_decay(name):
    kernel = jnp.full((2, 2), 3.0)
    params = {"stem": {"kernel": kernel}, "head": {"kernel": kernel}}
    gradients = jax.tree.map(jnp.zeros_like, params)
    optimizer = make_optimizer(
        OptimizerConfig(name, weight_decay=0.1, momentum=0.0),
        lambda step: 0.5,
        frozen=lambda path: path[0] == "stem",
    )
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["stem"]["kernel"], 0)
    np.testing.assert_allclose(updates["head"]["kernel"], -0.5 * 0.1 * 3, rtol=1e-6)


def test_momentum_is_that_of_goyal_et_al():
    """Equations 9 and 10: the rate multiplies the momentum, not the gradient added to it."""
    params, gradient = jnp.zeros(()), jnp.ones(())
    rate = [1.0, 0.1]
    optimizer = make_optimizer(
        OptimizerConfig("sgd", momentum=0.9), lambda step: jnp.array(rate)[step]
    )
    state, found = optimizer.init(params), []
    for _ in range(2):
        updates, state = optimizer.update(gradient, state, params)
        found.append(float(updates))
    np.testing.assert_allclose(found, [-1.0, -0.1 * 1.9], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScheduleConfig(length=0), r"length .* 0$"),
        (
            lambda: ScheduleConfig(length=20, warmup=30),
            r"warmup .* 20, .* 30$",
        ),
        (lambda: ScheduleConfig(decay="step"), r"milestones .* \(\)"),
        (lambda: ScheduleConfig(milestones=(5.0,)), r"milestones .* \(5\.0,\)"),
        (
            lambda: ScheduleConfig(decay="step", milestones=(9.0, 5.0)),
            r"milestones .* \(9\.0, 5\.0\)",
        ),
        (
            lambda: OptimizerConfig(learning_rate=0),
            r"learning_rate .* 0$",
        ),
        (lambda: OptimizerConfig(b1=1.0), r"b1 .* 1\.0"),
        (lambda: OptimizerConfig(weight_decay=-1), r"weight_decay .* -1$"),
        (lambda: OptimizerConfig(reference_batch_size=0), r"reference_batch_size .* 0$"),
    ],
)
def test_configs_that_cannot_be_trained(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
