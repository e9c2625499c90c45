import dataclasses
import json

import pytest

from experiments.engine import config as configs


@dataclasses.dataclass(frozen=True)
class Inner:
    widths: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    rate: float = 0.1


def test_round_trip(tmp_path):
    config = Outer(Inner((3, 4, 5)), 0.5)
    configs.save(config, tmp_path / "config.json")
    assert configs.load(Outer, tmp_path / "config.json") == config


def test_differences_name_each_field():
    found = configs.differences(Outer(), Outer(Inner((7,)), 0.2))
    assert found == ["inner.widths: (1, 2) -> (7,)", "rate: 0.1 -> 0.2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", r"must have the fields \['inner', 'rate'\], got \[\]"),
        (json.dumps({"rate": 1}), r"lacks \['inner'\]"),
        (json.dumps({"rate": "1", "inner": {"widths": [3]}}), r"rate must be .*float.*, got '1'"),
        (json.dumps({"rate": 1, "inner": {"widths": 3}}), r"inner\.widths must be tuple.*, got 3"),
        (json.dumps({"rate": 1, "inner": {"widths": ["3"]}}), r"inner\.widths must be .*, got '3'"),
        (
            json.dumps({"rate": 1, "inner": {"width": 3}}),
            r"inner lacks \['widths'\].*\['width'\]",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(configs.ConfigError, match=message):
        configs.load(Outer, tmp_path / "config.json")
