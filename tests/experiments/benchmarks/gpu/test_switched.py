"""What changes of a kernel are worth running, for the kernels as they are."""

import pytest
from carafe_kernels import mosaic_gpu

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import plan, switched
from experiments.benchmarks.gpu.channel_steps import channels_of_a_step
from experiments.benchmarks.gpu.kernels import PASSES
from experiments.benchmarks.gpu.switches import SWITCHES
from tests.slow import slow

KERNELS = [
    (plan.SMOKE_CASE.replace(dtype=dtype, normalizer=normalizer), kernel)
    for dtype in plan.DTYPES
    for normalizer in plan.NORMALIZERS
    for kernels in PASSES[plan.SMOKE_CASE.replace(normalizer=normalizer).operator].values()
    for kernel in kernels
]
IDS = [f"{case.operator} {kernel} {case.dtype}" for case, kernel in KERNELS]


def switched_to(tell, monkeypatch, case, kernel, switch):
    """What would be smoke tested, or why nothing would be."""
    tested = []
    monkeypatch.setattr(switched, "smoke", lambda *arguments: tested.append(arguments[1:]))
    changes = {"settings": {}, "one_step": False, **SWITCHES[switch]}
    try:
        switched.switched(tell, case.to_json(), kernel, seeds=[1], **changes)
    except NotImplementedError as error:
        return str(error)
    ((json_case,), name, seeds, settings), = tested  # fmt: skip
    assert (name, seeds, settings) == (kernel, [1], changes["settings"])
    return Case.from_json(json_case)


@pytest.mark.parametrize(("case", "kernel"), KERNELS, ids=IDS)
def test_one_step_is_one(tell, monkeypatch, case, kernel):
    """One step of the tile is taken in one, and the smoke test has several."""
    found = switched_to(tell, monkeypatch, case, kernel, "one step")
    step = channels_of_a_step(case, kernel)
    assert found == case.replace(channels=step)
    assert channels_of_a_step(found, kernel) >= step
    assert case.channels >= 3 * step


def test_a_map_of_one_step_has_no_fewer(tell, monkeypatch):
    case = Case(2, 5, 6, 16, kernel_size=3, up=2)
    text = switched_to(tell, monkeypatch, case, "dw", "one step")
    assert text == "does not apply: a block takes all channels at once"


@pytest.mark.parametrize(
    ("case", "kernel"),
    [
        each if (each[0].dtype == "float32") == (each[0].normalizer is None) else slow(*each)
        for each in KERNELS
    ],
    ids=IDS,
)
def test_settings_run_where_they_change_the_program(tell, monkeypatch, case, kernel):
    for switch in ("automatic barriers", "padded maps"):
        assert switched_to(tell, monkeypatch, case, kernel, switch) == case
    text = switched_to(tell, monkeypatch, case, kernel, "one slot")
    if kernel in ("dw", "dlogits"):  # which never copy ahead
        assert text == "does not apply: the program stays as it is"
    if kernel == "forward":
        assert text == case


def test_bands_have_steps_of_their_own():
    case = plan.SMOKE_CASE.replace(dtype="bfloat16")
    alone = channels_of_a_step(case, "forward")
    with mosaic_gpu.using(forward="bands"):
        assert channels_of_a_step(case, "forward") != alone
