import pytest

from experiments.engine.json_files import is_finite, is_int64, parse_json, read_json, write_json


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "file", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_json_is_read_with_and_without_a_byte_order_mark(tmp_path, start):
    (tmp_path / "file").write_bytes(start + '{"name": "Käse"}'.encode())
    assert read_json(tmp_path / "file") == {"name": "Käse"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff", "decode"),
        (b"[" * 100_000, "nested"),
        (b'{"a": ' * 100_000, "nested"),
        (b"9" * 5000, "digits"),
        (b'{"a": 1, "b": 2, "a": 1}', r"'a' twice"),
        (b'[{"a": {"b": 1, "b": 2}}]', r"'b' twice"),
    ],
)
def test_invalid_json_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "finite", "int64"),
    [
        (b"0", True, True),
        (b"-1.5e300", True, False),
        (b"9223372036854775807", True, True),
        (b"-9223372036854775808", True, True),
        (b"9223372036854775808", True, False),
        (b"1" + b"0" * 400, False, False),
        (b"1e400", False, False),
        (b"NaN", False, False),
        (b"-Infinity", False, False),
        (b"true", False, False),
        (b'"1"', False, False),
        (b"null", False, False),
    ],
)
def test_numbers_must_fit_into_a_float_or_an_integer(text, finite, int64):
    value = parse_json(text)
    assert (is_finite(value), is_int64(value)) == (finite, int64)
