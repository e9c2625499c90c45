"""Chains, maps and targets that do not fit together are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from carafe_jax.sources import reassemble_chain, source_weights
from tests.carafe_jax.chains import random_pyramid, random_step


@pytest.fixture(scope="module")
def pyramid():
    return random_pyramid()


def changed(chain, index, **fields):
    return [*chain[:index], dataclasses.replace(chain[index], **fields), *chain[index + 1 :]]


WRONG_CHAINS = {
    "empty": (lambda chain: [], r"chain must.*none"),
    "not a sequence": (lambda chain: chain[0], r"chain must.*got Reassembly"),
    "an array": (lambda chain: [chain[0], chain[1].kernels], r"chain\[1\].*Reassembly.*ndarray"),
    "kernels of another size": (
        lambda chain: changed(chain, 1, kernels=chain[0].kernels),
        r"kernels of chain\[1\].*\(3, 4, 27\).*\(6, 8, 18\)",
    ),
    "kernels of another kernel size": (
        lambda chain: changed(chain, 0, kernel_size=5, name="neck/up"),
        r"kernels of chain\[0\] \(neck/up\).*\(6, 8, 50\).*\(6, 8, 18\)",
    ),
    "integer kernels": (
        lambda chain: changed(chain, 1, kernels=np.ones((3, 4, 27), int)),
        r"kernels of chain\[1\].*int64",
    ),
    "no kernels": (
        lambda chain: changed(chain, 1, kernels=None),
        r"kernels of chain\[1\].*NoneType",
    ),
    "even kernel size": (
        lambda chain: changed(chain, 1, kernel_size=4),
        r"chain\[1\].*kernel_size.*4",
    ),
    "no groups": (lambda chain: changed(chain, 1, groups=0), r"chain\[1\].*groups.*0"),
    "one size": (lambda chain: changed(chain, 1, size=5), r"size of chain\[1\].*5"),
    "no pixels": (lambda chain: changed(chain, 0, size=(3, 0)), r"size of chain\[0\].*0"),
    "a larger map than there is": (
        lambda chain: [chain[0], random_step(np.random.default_rng(0), (7, 7))],
        r"size of chain\[1\].*\(6, 8\).*up=2.*\(7, 7\)",
    ),
    "a crop of more than a cell": (
        lambda chain: [chain[0], random_step(np.random.default_rng(0), (5, 6))],
        r"size of chain\[1\].*\(6, 8\).*up=2.*\(5, 6\)",
    ),
    "a crop after downsampling": (
        lambda chain: [*chain, random_step(np.random.default_rng(0), (3, 3))],
        r"size of chain\[2\].*\(3, 4\).*up=1.*\(3, 3\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_CHAINS)
def test_chains_that_do_not_fit_are_refused(case, pyramid):
    change, message = WRONG_CHAINS[case]
    chain = change(pyramid)
    with pytest.raises(ValueError, match=message):
        source_weights(chain, [[0, 0]])
    with pytest.raises(ValueError, match=message):
        reassemble_chain(chain, jnp.ones((3, 4, 6)))


@pytest.mark.parametrize("shape", [(4, 4, 6), (2, 4, 6), (3, 5, 6)])
def test_a_first_map_of_another_size_is_refused(shape, pyramid):
    with pytest.raises(ValueError, match=r"x must.*\(3, 4\)") as error:
        reassemble_chain(pyramid, jnp.ones(shape))
    assert str(shape) in str(error.value)


def test_maps_that_do_not_fit_the_kernels_are_refused(pyramid):
    with pytest.raises(ValueError, match=r"kernels of chain\[0\].*\(2,\).*\(6, 8, 18\)"):
        reassemble_chain(pyramid, jnp.ones((2, 3, 4, 6)))
    with pytest.raises(ValueError, match=r"groups.*4.*3"):
        reassemble_chain(pyramid, jnp.ones((3, 4, 4)))


def test_kernels_with_batch_axes_need_vmap(pyramid):
    stacked = jax.tree.map(lambda kernels: kernels[None], pyramid)
    with pytest.raises(ValueError, match=r"kernels of chain\[0\].*\(1, 6, 8, 18\).*vmap"):
        source_weights(stacked, [[0, 0]])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.zeros((1, 2)), "targets.*float64"),
        (np.zeros((1, 2), bool), "targets.*bool"),
        (np.zeros(2, int), r"targets.*\(2,\)"),
        (np.zeros((2, 3), int), r"targets.*\(2, 3\)"),
        (np.array([[2**32, 0]]), r"targets.*4294967296"),
    ],
    ids=["floats", "bools", "one", "three", "large"],
)
def test_targets_must_be_pairs_of_integers(targets, message, pyramid):
    with pytest.raises(ValueError, match=message):
        source_weights(pyramid, targets)
