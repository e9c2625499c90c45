import os

import pytest

from experiments.engine.text import encodable, listed, printable, shown

NOT_UTF_8 = os.fsdecode(b"a\xff.png")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (NOT_UTF_8, r"a\udcff.png"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u2028b", r"a\u2028b"),
        ("tab\t", r"tab\t"),
        ("photo\u202egpj.exe", r"photo\u202egpj.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
    ],
)
def test_line_breaks_and_control_characters_are_escaped(name, shown):
    assert printable(name) == shown
    assert shown.encode().decode() == shown


@pytest.mark.parametrize(
    "name", ["été.png", "日本.png", "one two\u202fPM.png", "👩‍🚀.jpg", r"back\slash", "[red]"]
)
def test_other_names_are_unchanged(name):
    assert printable(name) == name
    assert encodable(name) == name


def test_text_that_is_not_utf_8_can_be_encoded():
    assert encodable(NOT_UTF_8) == r"a\udcff.png"
    assert encodable("two\nlines") == "two\nlines"


@pytest.mark.parametrize("value", ["a" * 1000, [[[[[[1]]]]]], list(range(100)), {"a": "b" * 300}])
def test_a_value_is_shown_shortened(value):
    assert "..." in shown(value)
    assert len(shown(value)) < 210


def test_only_the_first_of_many_entries_are_listed():
    assert listed(["a", "b"]) == "a; b"
    assert listed([str(n) for n in range(20)]).endswith("; 19")
    assert listed([str(n) for n in range(21)]) == "0; 1; 2; 3; 4; 5; ..."
