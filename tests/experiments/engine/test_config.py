import dataclasses
import json
from typing import Literal

import pytest

from experiments.engine import config as configs


@dataclasses.dataclass(frozen=True)
class Inner:
    widths: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Network:
    depth: Literal[18, 34] = 18
    seed: int | None = None


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
        ("{", r"config\.json.*not valid JSON"),
        ("[" * 100_000, r"config\.json.*not valid JSON.*nested"),
        ('{"rate": ' + "9" * 5000 + "}", r"config\.json.*not valid JSON.*digits"),
        ('{"rate": 1, "rate": 2}', r"config\.json.*not valid JSON.*'rate' twice"),
        ("[" * 800 + "]" * 800, r"must have the fields.*\.\.\."),
        ('{"rate": NaN, "inner": {"widths": [3]}}', r"rate must be .*float.*, got nan"),
        ('{"rate": 1e999, "inner": {"widths": [3]}}', r"rate must be .*float.*, got inf"),
        (json.dumps({"rate": 10**400, "inner": {"widths": [3]}}), r"rate must be .*, got 1000"),
        (
            json.dumps({"rate": 1, "inner": {"widths": [2**63]}}),
            r"widths must be .* 922337203685477",
        ),
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
def test_a_file_that_does_not_match_the_config_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(configs.ConfigError, match=message):
        configs.load(Outer, tmp_path / "config.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"depth": 18.0, "seed": 0}', r"depth must be .*, got 18\.0"),
        ('{"depth": 18, "seed": 1e999}', r"seed must be .*int.*, got inf"),
        ('{"depth": 18, "seed": true}', r"seed must be .*int.*, got True"),
    ],
)
def test_a_number_of_another_type_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(configs.ConfigError, match=message):
        configs.load(Network, tmp_path / "config.json")
