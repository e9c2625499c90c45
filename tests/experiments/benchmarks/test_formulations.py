import jax
import numpy as np
import pytest

from experiments.benchmarks import formulations
from experiments.benchmarks.formulations import operands, suites
from experiments.benchmarks.timing import Timing
from tests.experiments.benchmarks.markdown_tables import tables


@pytest.mark.slow
def test_all_formulations_give_the_same_result():
    for key, functions in suites().items():
        first, *others = (jax.jit(run)(*operands(*key)) for run in functions.values())
        for other in others:
            np.testing.assert_allclose(other, first, atol=2e-4)


def test_the_table_has_a_row_for_each_formulation(in_this_process, monkeypatch, capsys):
    def times(contraction, case, rounds):
        return {name: Timing(2.5, 0, 1.0, 3_000_000) for name in suites()[contraction, case]}

    monkeypatch.setattr(formulations, "times", times)
    formulations.run(rounds=1)
    ((headings, *rows),) = tables(capsys.readouterr().out)
    assert headings == ["", "formulation", "ms", "temporary MB"]
    assert [row[1] for row in rows] == [name for each in suites().values() for name in each]
    assert [row[0] for row in rows if row[0]] == [
        f"{contraction}, {scale} 2" for scale in ("up", "down")
        for contraction in ("forward", "input gradient", "weight gradient")
    ]  # fmt: skip
    assert rows[0][2:] == ["2.50", "3.0"]
    assert set(in_this_process) == {"defaults"}
