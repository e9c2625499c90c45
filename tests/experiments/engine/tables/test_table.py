import numpy as np
import pytest

from experiments.engine.tables.table import Spread, Table, print_tables, save_tables


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


def test_names_are_not_read_as_markup_or_columns(capsys):
    table = Table("[runs]", ("run", "[dB]"), (("[/red] a|b [bold]", "1.0"),))
    print_tables([table], ["in runs/[bold]x"])
    printed = capsys.readouterr().out
    for text in ("[runs]", "[dB]", "[/red] a|b [bold]", "in runs/[bold]x"):
        assert text in printed
    assert table.markdown().splitlines()[-1] == r"| [/red] a\|b [bold] | 1.0 |"


def test_a_name_that_is_not_utf8_can_be_saved(tmp_path):
    save_tables(tmp_path / "table.md", [Table("runs", ("run", "score"), (("c\udcff", "2"),))])
    assert r"| c\udcff | 2 |" in (tmp_path / "table.md").read_text()


def test_a_line_with_its_name_stands_above_each_group(capsys):
    rows = (("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"))
    table = Table("runs", ("run", "score"), rows, groups=("", "later", "later", "last"))
    assert table.markdown().splitlines()[4:] == [
        "| a | 1 |",
        "| *later* |  |",
        "| b | 2 |",
        "| c | 3 |",
        "| *last* |  |",
        "| d | 4 |",
    ]
    print_tables([table])
    printed = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    above = printed.index(next(line for line in printed if line.startswith("later")))
    assert printed[above - 1].startswith("├")
    assert printed[above + 1].startswith("b")


def test_groups_of_another_number_than_the_rows_are_refused():
    with pytest.raises(ValueError, match=r"groups.*1.*'a', 'b'"):
        Table("runs", ("run",), (("c",),), groups=("a", "b"))
