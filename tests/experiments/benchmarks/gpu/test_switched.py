"""Tests which changed settings run for the present kernels."""

import pytest
from carafe_kernels import mosaic_gpu

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import plan, switched
from experiments.benchmarks.gpu.channel_steps import channels_of_a_step
from experiments.benchmarks.gpu.kernels import PASSES
from experiments.benchmarks.gpu.switches import SWITCHES
from tests.slow import slow

pytestmark = pytest.mark.slow

KERNELS = [
    (plan.SMOKE_CASE.replace(dtype=dtype, normalizer=normalizer), kernel)
    for dtype in plan.DTYPES
    for normalizer in plan.NORMALIZERS
    for kernels in PASSES[plan.SMOKE_CASE.replace(normalizer=normalizer).operator].values()
    for kernel in kernels
]
IDS = [f"{case.operator} {kernel} {case.dtype}" for case, kernel in KERNELS]


def switched_to(reporter, monkeypatch, case, kernel, switch):
    """The case that would be smoke tested, or the reason why none would be."""
    tested = []
    monkeypatch.setattr(switched, "smoke", lambda *arguments: tested.append(arguments[1:]))
    changes = {"settings": {}, "one_step": False, **SWITCHES[switch]}
    try:
        switched.switched(reporter, case.to_json(), kernel, seeds=[1], **changes)
    except NotImplementedError as error:
        return str(error)
    ((json_case,), name, seeds, settings), = tested  # fmt: skip
    assert (name, seeds, settings) == (kernel, [1], changes["settings"])
    return Case.from_json(json_case)


@pytest.mark.parametrize(("case", "kernel"), KERNELS, ids=IDS)
def test_one_step_reduces_the_channels_to_a_single_step(reporter, monkeypatch, case, kernel):
    """A block processes the reduced channels in one step, all channels in several."""
    found = switched_to(reporter, monkeypatch, case, kernel, "one step")
    step = channels_of_a_step(case, kernel)
    assert found == case.replace(channels=step)
    assert channels_of_a_step(found, kernel) >= step
    assert case.channels >= 3 * step


def test_one_step_does_not_apply_to_a_map_of_one_step(reporter, monkeypatch):
    case = Case(2, 5, 6, 16, kernel_size=3, up=2)
    text = switched_to(reporter, monkeypatch, case, "dw", "one step")
    assert text == "does not apply: a block processes all channels in one step"


@pytest.mark.parametrize(
    ("case", "kernel"),
    [
        each if (each[0].dtype == "float32") == (each[0].normalizer is None) else slow(*each)
        for each in KERNELS
    ],
    ids=IDS,
)
def test_settings_run_where_they_change_the_program(reporter, monkeypatch, case, kernel):
    for switch in ("automatic barriers", "padded maps"):
        assert switched_to(reporter, monkeypatch, case, kernel, switch) == case
    text = switched_to(reporter, monkeypatch, case, kernel, "one slot")
    if kernel in ("dw", "dlogits"):  # these kernels never copy ahead
        assert text == "does not apply: the program does not change"
    if kernel == "forward":
        assert text == case


@pytest.mark.parametrize(
    ("settings", "kernel", "channels"),
    [
        ({"forward": "bands"}, "forward", 320),
        ({"input_gradient": "bands"}, "dx", 320),
        ({"weight_gradient": "products"}, "dw", 48),
    ],
    ids=str,
)
def test_tensor_cores_have_another_number_of_channels_per_step(settings, kernel, channels):
    case = plan.SMOKE_CASE.replace(dtype="bfloat16", channels=channels)
    alone = channels_of_a_step(case, kernel)
    with mosaic_gpu.using(**settings):
        assert channels_of_a_step(case, kernel) != alone
