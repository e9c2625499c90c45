"""The reassembly kernels of a network, without ``collect_reassemblies``."""

import jax
import numpy as np
from flax import traverse_util


def sharpened(params):
    """Parameters whose predicted kernels are far from a box filter."""

    def sharp(path, array):
        return 1000 * array if "content_encoder" in jax.tree_util.keystr(path) else array

    return jax.tree_util.tree_map_with_path(sharp, params)


def sow(model, variables, *inputs, **options):
    """Applies a network.

    Returns:
        The output, and the reassembly kernels by the path of their layer.
    """
    apply = jax.jit(lambda *args: model.apply(*args, mutable=["intermediates"], **options))
    output, state = apply(variables, *inputs)
    flat = traverse_util.flatten_dict(state["intermediates"], sep="/")
    end = "/reassembly_kernels"
    return output, {path.removesuffix(end): sown for path, sown in flat.items() if end in path}


def assert_has_kernels(pathway, sown):
    """Checks the kernels of a pathway of the only image of a batch."""
    for step in pathway.steps:
        (kernels,) = sown[step.name]
        assert np.ptp(kernels) > 0.01  # no box filter
        np.testing.assert_allclose(step.kernels, kernels[0], rtol=1e-3, atol=1e-5)
