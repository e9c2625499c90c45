"""Shardings over all devices, and the communication in compiled programs."""

import re

import jax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

each_axis_type = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])


def over_the_batch(axis_type):
    mesh = jax.make_mesh((jax.local_device_count(),), ("data",), axis_types=(axis_type,))
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(sharding):
    return NamedSharding(sharding.mesh, PartitionSpec())


def run_and_collectives(function, *arguments):
    """Compiles a jitted function once, and returns its result and its kinds of communication."""
    compiled = function.lower(*arguments).compile()
    return compiled(*arguments), _collectives(compiled)


def collectives(function, *arguments):
    """The kinds of communication in a jitted function."""
    return _collectives(function.lower(*arguments).compile())


def _collectives(compiled):
    text = compiled.as_text()
    assert f"num_partitions={jax.local_device_count()}" in text
    kinds = (
        "all-gather|all-reduce|all-to-all|collective-broadcast|collective-permute|reduce-scatter"
    )
    return set(re.findall(kinds, text))
