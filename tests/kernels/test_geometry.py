import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from carafe_kernels.geometry import Axis, Geometry, Resize
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


# Any scale


def random_axes(count, largest):
    rng = np.random.default_rng(0)
    for sources, outputs in rng.integers(1, largest, (count, 2)).tolist():
        yield Axis(sources, Fraction(outputs, sources))


def test_centres_of_ten_thousand_sizes_are_exact_and_in_the_map():
    for axis in random_axes(10_000, 100):
        expected = [math.floor(index / axis.scale) for index in range(axis.outputs)]
        assert axis.centres().tolist() == expected
        assert expected[-1] < axis.sources


@pytest.mark.parametrize("up", [1, 2, 3])
def test_a_kernel_of_the_field_belongs_to_the_source_on_which_its_output_is_centred(up):
    for axis in random_axes(1000, 60):
        field = axis.centres(up)
        assert (field // up).tolist() == axis.centres().tolist()
        whole = [Fraction(index * up) / axis.scale for index in range(axis.outputs)]
        assert field.tolist() == [math.floor(position) for position in whole]
        fractions = [float(position - math.floor(position)) for position in whole]
        np.testing.assert_allclose(axis.remainders(up), fractions, rtol=1e-12)


def test_a_scale_rounds_the_number_of_outputs_up_as_up_and_down_do():
    rng = np.random.default_rng(0)
    for sources, up, down in rng.integers(1, 40, (2000, 3)).tolist():
        axis = Axis(sources, Fraction(up, down))
        assert axis.outputs == oracle.output_size(sources, up, down)
        expected = [oracle.centre(index, up, down) for index in range(axis.outputs)]
        assert axis.centres().tolist() == expected


def test_a_float_would_round_some_centres_down_to_the_pixel_before():
    axis = Axis(100, Fraction(49, 10))
    in_floats = [math.floor(index / 4.9) for index in range(axis.outputs)]
    assert axis.centres().tolist() != in_floats


def test_every_output_stands_once_beside_the_source_on_which_it_is_centred():
    for axis in random_axes(300, 40):
        by_source = axis.outputs_by_source(2)
        assert by_source.shape[0] == axis.sources + 4
        assert by_source.shape[1] == math.ceil(axis.outputs / axis.sources)
        found = {}
        for source, outputs in enumerate(by_source.tolist(), start=-2):
            found |= {output: source for output in outputs if output != axis.outputs}
        assert [found[output] for output in range(axis.outputs)] == axis.centres().tolist()


def test_a_crop_lacks_a_few_outputs_and_takes_its_kernels_from_the_field_in_place():
    rng = np.random.default_rng(0)
    crops = 0
    for sources, up, outputs, down in rng.integers(1, 9, (3000, 4)).tolist():
        axis = Axis(sources, Fraction(outputs, down))
        in_place = axis.centres(up).tolist() == list(range(axis.outputs))
        expected = in_place and 0 <= sources * up - axis.outputs < up
        assert Resize(axis, axis).crops(Geometry(5, up=up)) == expected
        crops += expected
    assert crops > 100


@pytest.mark.parametrize("up", [2, 3])
def test_a_map_without_its_last_row_is_a_crop(up):
    for size in range(2, 50):
        odd = Axis(size, Fraction(up * size - 1, size))
        assert Resize(odd, odd).crops(Geometry(5, up=up))
        assert not Resize(odd, odd).crops(Geometry(5, up=up, down=2))
        assert not Resize(odd, odd).crops(Geometry(5, up=up + 1))


@pytest.mark.parametrize(
    ("rows", "columns", "up_and_down"),
    [
        (Fraction(2), Fraction(2), (2, 1)),
        (Fraction(1, 4), Fraction(1, 4), (1, 4)),
        (Fraction(1, 5), Fraction(1, 5), None),
        (Fraction(5), Fraction(5), None),
        (Fraction(3, 2), Fraction(3, 2), None),
        (Fraction(2), Fraction(3), None),
        (Fraction(19, 10), Fraction(2), (2, 1)),  # a crop
        (Fraction(49, 10), Fraction(5), None),
    ],
)
def test_only_small_integers_are_computed_in_cells(rows, columns, up_and_down):
    resize = Resize(Axis(10, rows), Axis(10, columns))
    found = resize.in_cells(Geometry(3, groups=2))
    expected = up_and_down and Geometry(3, *up_and_down, groups=2)
    assert found == expected
