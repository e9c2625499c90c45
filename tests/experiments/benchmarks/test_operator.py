import jax
import numpy as np
import pytest

from experiments.benchmarks import operator, processes, pytorch
from experiments.benchmarks.calls import arrays, passes
from experiments.benchmarks.cases import Case, matching
from experiments.benchmarks.machine import Limits
from experiments.benchmarks.operator import (
    CASES,
    PATCHES,
    OwnTimes,
    formulations,
    limit_rows,
    print_tables,
)
from experiments.benchmarks.timing import Timing
from experiments.engine.config import ConfigError
from tests.experiments.benchmarks.markdown_tables import tables
from tests.experiments.benchmarks.passes_oracle import results_of

PASSES = ["forward", "with gradient", "gradient, ReLU", "gradient, squared loss"]
SMALL = Case(1, 5, 5, 3, kernel_size=3, up=2)


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setattr(pytorch, "load", lambda platform: None)


def test_cases_have_distinct_labels():
    assert CASES[0].label == "up 2, k=5, 1x50x50x256, float32"
    assert len({case.label for case in CASES}) == len(CASES)


def test_a_label_names_options_that_are_not_the_default():
    case = Case(1, 6, 4, 8, up=3, down=2, groups=2, dtype="bfloat16", weights_dtype="float16")
    assert case.label == "up 3, down 2, k=5, g=2, 1x6x4x8, bfloat16, weights float16"
    assert Case(1, 6, 4, 8).label == "k=5, 1x6x4x8, float32"


def test_cases_are_chosen_by_their_label():
    assert matching(CASES, "") == [*CASES]
    assert {case.dtype for case in matching(CASES, "bfloat16")} == {"bfloat16"}
    with pytest.raises(ConfigError, match=r"cases .*up 2, k=5, 1x50x50x256, float32.*'k=9'"):
        matching(CASES, "k=9")


def test_the_command_rejects_a_label_that_no_case_has(run_failing):
    code, error = run_failing(operator.run, "--cases", "k=9")
    assert code == 2
    assert "cases" in error
    assert "k=9" in error


@pytest.mark.slow
@pytest.mark.usefixtures("without_torch")
def test_the_table_has_a_row_for_each_pass_of_a_case(in_this_process, capsys):
    print_tables([SMALL], rounds=1)
    printed = capsys.readouterr().out
    assert "its times are left out" in printed
    assert "MALLOC_ARENA_MAX=1" in printed
    first, contractions = tables(printed)
    assert first[0][:6] == ["", "pass", "ours, ms", "memory kept, ms", "page faults",
                                   "memory kept, page faults"]  # fmt: skip
    assert first[0][6:] == ["ours, temp / (x+w+y)", "XLA patches, ms (times ours)",
                            "XLA patches, temp / (x+w+y)"]  # fmt: skip
    assert [row[:2] for row in first[1:]] == [
        [SMALL.label, PASSES[0]], *(["", name] for name in PASSES[1:])
    ]  # fmt: skip
    assert [row[1] for row in contractions[1:]] == ["forward", "input gradient", "weight gradient"]
    assert in_this_process == ["defaults", "defaults", "memory kept"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_torch")
def test_without_glibc_there_are_no_columns_with_memory_kept(in_this_process, monkeypatch, capsys):
    monkeypatch.setattr(processes, "libc_ver", lambda: ("", ""))
    print_tables([SMALL], rounds=1)
    printed = capsys.readouterr().out
    assert "MALLOC" not in printed
    assert tables(printed)[0][0][:4] == ["", "pass", "ours, ms", "ours, temp / (x+w+y)"]
    assert in_this_process == ["defaults"] * 3


each_case = pytest.mark.parametrize(
    "case", [Case(2, 5, 4, 3, up=2), Case(1, 7, 5, 3, kernel_size=3, down=2)], ids=str
)


@each_case
@pytest.mark.parametrize("name", formulations(SMALL))
def test_every_pass_of_a_formulation_is_right(name, case):
    operands = arrays(case)
    found = {
        each: jax.tree.leaves(run(*operands))
        for each, run in passes(formulations(case)[name]).items()
    }
    expected = results_of(case, *operands)
    assert found.keys() == expected.keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


@each_case
def test_the_common_formulation_gathers_patches(case):
    text = jax.jit(formulations(case)[PATCHES]).lower(*arrays(case)[:2]).as_text()
    patches = -(-case.height // case.down), -(-case.width // case.down)
    size = "x".join(map(str, (case.batch, *patches, case.taps * case.channels)))
    assert f"tensor<{size}xf32>" in text


def test_the_weights_of_every_case_have_the_dtype_of_the_map():
    assert all(case.kernels_dtype == case.dtype for case in CASES)


def test_shares_are_relative_to_the_limits_of_the_machine():
    case = Case(1, 100, 100, 25, up=2)  # 1,000,000 outputs of 25 multiply-adds
    nbytes = 4 * (10_000 * 25 + 40_000 * 25 + 40_000 * 25)
    timing = Timing(milliseconds=2.0, page_faults=0)
    limits = Limits(bytes_per_second=4 * nbytes / 2e-3, flops_per_second=5e7 / 2e-3 * 2)
    ((*_, ms, rate, product_share, bandwidth, copy_share, product, copy),) = limit_rows(
        case, OwnTimes({}, {"forward": timing}, limits)
    )
    assert (ms, product_share, copy_share) == ("2.00", "50", "25")
    np.testing.assert_allclose(float(rate), 5e7 / 2e-3 / 1e9, atol=0.05)
    np.testing.assert_allclose(float(bandwidth), nbytes / 2e-3 / 1e9, atol=0.05)
    assert (product, copy) == ("50", "18.0")
