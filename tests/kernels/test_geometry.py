import dataclasses

import numpy as np
import pytest
from carafe_kernels.geometry import Geometry
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels import oracle
from tests.kernels.errors import naming

geometries = st.builds(
    Geometry,
    kernel_size=st.sampled_from((1, 3, 5, 7)),
    up=st.integers(1, 6),
    down=st.integers(1, 6),
    groups=st.integers(1, 3),
)
sizes = st.integers(1, 30)


@given(geometries, sizes)
def test_output_size_is_rounded_up(geometry, size):
    assert geometry.output_size(size) == oracle.output_size(size, geometry.up, geometry.down)


@given(geometries, st.integers(0, 60))
def test_centre_is_rounded_down(geometry, index):
    assert geometry.centre(index) == oracle.centre(index, geometry.up, geometry.down)


@given(geometries, sizes)
def test_every_centre_lies_in_the_map(geometry, size):
    assert geometry.centre(geometry.output_size(size) - 1) < size


@given(geometries, sizes)
def test_lowest_terms_are_the_same_reassembly(geometry, size):
    lowest = geometry.lowest_terms
    assert np.gcd(lowest.up, lowest.down) == 1
    assert lowest.output_size(size) == geometry.output_size(size)
    for index in range(geometry.output_size(size)):
        assert lowest.centre(index) == geometry.centre(index)


@given(geometries, sizes)
def test_cells_contain_every_output(geometry, size):
    first_beyond = geometry.cells(size) * geometry.up
    assert first_beyond - geometry.up < geometry.output_size(size) <= first_beyond


@given(geometries, st.integers(0, 5))
def test_phase_groups_cover_the_phases_in_order(geometry, cell):
    groups = geometry.phase_groups()
    phases = [phase for group in groups for phase in range(group.start, group.stop)]
    assert phases == list(range(geometry.up))
    assert len({group.centre_offset for group in groups}) == len(groups)
    for group in groups:
        for phase in range(group.start, group.stop):
            centre = geometry.centre(cell * geometry.up + phase)
            assert centre == cell * geometry.down + group.centre_offset


@given(geometries, st.integers(0, 5), st.integers(10, 12))
def test_readers_are_the_outputs_whose_taps_reach_a_source(geometry, source_phase, cell):
    source_phase %= geometry.down
    source = geometry.down * cell + source_phase
    found = [
        (geometry.up * (cell + reader.cell_shift) + reader.phase, reader.tap)
        for reader in geometry.readers(source_phase)
    ]
    expected = {
        (index, tap)
        for index in range(geometry.up * (cell + 20))
        for tap in range(geometry.kernel_size)
        if oracle.centre(index, geometry.up, geometry.down) + tap - geometry.radius == source
    }
    assert len(found) == len(expected)
    assert set(found) == expected


def test_channels_count_groups_and_taps():
    geometry = Geometry(kernel_size=3, up=2, groups=4)
    assert (geometry.radius, geometry.taps) == (1, 9)
    assert geometry.weight_channels == 36
    assert geometry.logit_channels == 144


@pytest.mark.parametrize("name", ["kernel_size", "up", "down", "groups"])
@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True, None], ids=repr)
def test_fields_must_be_positive_integers(name, value):
    with pytest.raises(ValueError, match=naming(name, repr(value))):
        Geometry(**{name: value})


def test_kernel_size_must_be_odd():
    with pytest.raises(ValueError, match=r"kernel_size.*odd.*4"):
        Geometry(kernel_size=4)


def test_numpy_integers_make_an_equal_geometry():
    geometry = Geometry(np.int64(3), np.uint8(2), np.int32(1), np.int16(2))
    assert geometry == Geometry(3, 2, 1, 2)
    assert hash(geometry) == hash(Geometry(3, 2, 1, 2))
    assert {type(value) for value in dataclasses.astuple(geometry)} == {int}
