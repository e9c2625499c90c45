import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from experiments.inpainting.prediction.tiles import Tiling


@st.composite
def cuts(draw):
    margin, ramp = draw(st.integers(0, 40)), draw(st.integers(1, 40))
    side = 2 * (2 * margin + ramp) + draw(st.integers(0, 100))
    return Tiling(side, margin, ramp), draw(st.integers(1, 2000)), draw(st.sampled_from([1, 4, 32]))


@given(cuts())
def test_weights_sum_to_one_everywhere(cut):
    tiling, length, stride = cut
    total = np.zeros(length)
    for span in tiling.spans(length, stride):
        assert (span.weight >= 0).all()
        total[span.start : span.stop] += span.weight[: span.stop - span.start]
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(cuts())
def test_all_tiles_have_one_length_that_the_network_can_halve(cut):
    tiling, length, stride = cut
    spans = tiling.spans(length, stride)
    side = len(spans[0].weight)
    assert side % stride == 0
    assert side <= max(tiling.side + stride - 1, 2 * stride)
    assert {len(span.weight) for span in spans} == {side}
    assert all(span.start % stride == 0 for span in spans)
    assert spans[-1].stop == length
    if len(spans) > 1:
        assert side == tiling.side_for(stride)
        assert spans[-1].start + side - length < stride  # the padding is less than a stride


@given(cuts())
def test_margins_have_no_weight_and_ramps_are_not_too_steep(cut):
    tiling, length, stride = cut
    spans = tiling.spans(length, stride)
    assume(len(spans) > 1)
    for number, span in enumerate(spans):
        if number > 0:
            assert not span.weight[: tiling.margin].any()
        if number < len(spans) - 1:
            assert not span.weight[len(span.weight) - tiling.margin :].any()
        assert np.abs(np.diff(span.weight)).max() <= 1 / tiling.ramp + 1e-6


@pytest.mark.parametrize("stride", [1, 4, 128, 256])
def test_tiles_have_few_shapes(stride):
    lengths = {len(Tiling().spans(n, stride)[0].weight) for n in range(1, 1500, 7)}
    assert lengths == {max(stride, 128), max(stride, 256), 512} | (
        {384} if stride <= 128 else set()
    )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((64, -1, 8), "margin.* -1"),
        ((64, 0, 0), "ramp.* 0"),
        ((47, 8, 8), "side.* 48.* 47"),
    ],
)
def test_margins_and_ramps_that_fill_a_tile_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Tiling(*sizes)
