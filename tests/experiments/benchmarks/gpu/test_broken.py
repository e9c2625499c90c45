import pytest

from experiments.benchmarks.gpu import plan
from experiments.benchmarks.gpu.broken import Broken
from experiments.benchmarks.gpu.children import Finished, Step
from experiments.benchmarks.gpu.outcomes import Outcome, Verdict


def finished(outcome, measured=(), case=None, phase=plan.RIGHT, **about):
    step = Step(phase, "step", (), 1, about)
    return Finished(step, Verdict(outcome, "", tuple(measured), case))


def test_a_hang_in_a_case_leaves_out_its_family():
    """Cases of the same family that finished are not left out."""
    up, head, down = (plan.MAIN[name].replace(dtype="bfloat16")
                      for name in ("up 2", "mask head", "ResNet stem"))  # fmt: skip
    logits = up.replace(normalizer="softmax")
    broken = Broken()
    ended = {"case": head.to_json(), "repeats": True}
    broken.note(finished(Outcome.OK, [ended], cases=[head.to_json()]))
    broken.note(finished(Outcome.HANG, case=up.to_json(), cases=[up.to_json(), logits.to_json()]))
    assert broken.passes(up) == []
    assert broken.passes(plan.MORE["FPN"].replace(dtype="bfloat16")) == []
    for case in (head, down, logits, up.replace(dtype="float32"), up.replace(kernel_size=7)):
        assert broken.may_run_all(case)


def test_a_crash_while_compiling_leaves_out_all_cases_of_the_step():
    down = plan.SMOKE_MORE["down 2, all kernels"]
    broken = Broken()
    broken.note(finished(Outcome.CRASH, phase=plan.SMOKE, cases=[each.to_json() for each in down]))
    for normalizer in plan.NORMALIZERS:
        assert broken.passes(plan.MAIN["ResNet stem"].replace(normalizer=normalizer)) == []
        assert broken.may_run_all(plan.MAIN["up 2"].replace(normalizer=normalizer))


@pytest.mark.parametrize("outcome", [Outcome.SLOW, Outcome.WRONG, Outcome.NO_TIME, Outcome.ERROR])
def test_kernels_without_hang_or_crash_are_kept(outcome):
    broken = Broken()
    case = plan.MAIN["up 2"].to_json()
    broken.note(finished(outcome, case=case, cases=[case]))
    broken.note(finished(outcome, kernel=("reassemble", "dx", "float32")))
    assert broken.may_run_all(plan.MAIN["up 2"])


def test_only_passes_with_a_broken_kernel_are_left_out():
    broken = Broken()
    broken.note(finished(Outcome.CUDA_ERROR, kernel=("carafe", "dx", "float32")))
    case = plan.MAIN["up 2"].replace(normalizer="softmax")
    assert broken.passes(case) == ["forward"]
    assert broken.passes(case.replace(dtype="bfloat16")) == ["forward", "backward"]
    assert broken.passes(case.replace(normalizer=None)) == ["forward", "backward"]
