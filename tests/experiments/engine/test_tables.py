import numpy as np
import pytest

from experiments.engine.tables import Spread, Table, print_tables, save_tables


def test_a_spread_is_mean_and_sample_standard_deviation():
    values = [19.5, 20.25, 21.0]
    assert Spread.of(values) == Spread(
        pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1))
    )
    assert Spread.of([3.0]) == Spread(3.0)


@pytest.mark.parametrize(
    ("spread", "digits", "sign", "text"),
    [
        (Spread(20.927, 0.0512), 2, "", "20.93 ± 0.05"),
        (Spread(0.91234), 4, "", "0.9123"),
        (Spread(1.35), 2, "+", "+1.35"),
        (Spread(-0.001), 2, "", "0.00"),
        (Spread(-0.87), 2, "+", "-0.87"),
    ],
)
def test_texts_of_spreads(spread, digits, sign, text):
    assert spread.text(digits, sign) == text


def test_the_name_of_a_run_is_shown_and_kept_as_it_is(tmp_path, capsys):
    table = Table("runs of [red]", ("run", "score"), (("a[red]b", "1"), ("c\udcff", "2")))
    print_tables([Table("[red]", ("run",), (("a[red]b",),))], ["in [bold]"])
    printed = capsys.readouterr().out
    assert printed.startswith("[red]")
    assert "a[red]b" in printed
    assert printed.endswith("in [bold]\n")
    save_tables(tmp_path / "table.md", [table])
    assert r"| c\udcff | 2 |" in (tmp_path / "table.md").read_text()
