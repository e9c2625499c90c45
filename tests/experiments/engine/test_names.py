import io
import os
import sys

import pytest

from experiments.engine.names import encodable, escape_on_output, printable

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
    ],
)
def test_what_breaks_a_line_or_drives_a_terminal_is_escaped(name, shown):
    assert printable(name) == shown
    assert shown.encode().decode() == shown


@pytest.mark.parametrize(
    "name", ["été.png", "日本.png", "one two\u202fPM.png", "👩‍🚀.jpg", r"back\slash", "[red]"]
)
def test_other_names_stay_as_they_are(name):
    assert printable(name) == name
    assert encodable(name) == name


def test_what_is_no_utf_8_can_be_encoded():
    assert encodable(NOT_UTF_8) == r"a\udcff.png"
    assert encodable("two\nlines") == "two\nlines"


def test_output_escapes_what_its_encoding_lacks(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    escape_on_output()
    print("été", flush=True)
    assert written.getvalue() == b"\\xe9t\\xe9\n"
