import copy
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import tables

CASE = Case(2, 10, 10, 8, up=2)
FUSED = CASE.replace(normalizer="softmax")


def step(phase, name, measured, outcome="ok", **about):
    return {"phase": phase, "name": name, "outcome": outcome, "detail": "said", "seconds": 1.5,
            "about": about, "measured": measured}  # fmt: skip


def timed(case, name, microseconds, variant="default", **more):
    return {"case": case.to_json(), "pass": name, "variant": variant,
            "microseconds": microseconds, "difference": None, **more}  # fmt: skip


def record():
    json_case = CASE.to_json()
    ours = [
        timed(CASE, "forward", 2000.0), timed(CASE, "backward", 40.0),
        timed(FUSED, "forward", 5.0),
        timed(CASE, "forward", 21.0, "bands", difference=1e-3),
        {"case": json_case, "pass": "backward", "variant": "apart", "same_as": "default"},
        {"case": json_case, "pass": "backward", "variant": "together", "refused": "no"},
    ]  # fmt: skip
    return {
        "command": "python3 -m bringup --out x", "budget": 560, "seed": 7, "interpret": False,
        "started": "2026-01-01", "ended": "complete", "seconds": 500.0,
        "machine": {"card": "NVIDIA H100", "driver": "580.1", "versions": {"jax": "0.11.2"},
                    "bandwidth": 1e9, "dispatch_microseconds": 3.0},
        "steps": [
            step("smoke", "reassemble dx float32", [], "wrong",
                 kernel=["reassemble", "dx", "float32"]),
            step("right", "up 2 float32",
                 [{"case": json_case, "errors": {"y": 1e-7, "dx": 2e-7, "dw": "nan"},
                   "repeats": False}], cases=[FUSED.to_json()]),
            step("right", "checks", [{"case": json_case, "errors": [3e-7, 4e-7, 5e-7],
                                      "repeats": True, "vmap_error": 6e-7}]),
            step("fast", "ours", ours, case=json_case, implementation="mosaic_gpu"),
            step("fast", "xla", [timed(CASE, "forward", 4000.0)], case=json_case,
                 implementation="xla"),
            step("fast", "torch", [
                {"case": json_case, "form": "torch unfold", "pass": "forward",
                 "microseconds": 8000.0}
            ]),
            step("fast", "layers", [{"case": json_case, "layer": "CARAFE xla", "pass": "both",
                                     "microseconds": 77.0, "least": 70.0}]),
            step("why", "ncu forward", [{"kernel": "k", "counters": {"waves": "1.4"}}]),
        ],
        "conclusions": ["dx: right with one slot"],
        "not_run": ["fast: mask head"],
    }  # fmt: skip


def rows(results):
    return [line for line in tables.document(results) if line.startswith("| up 2, k=5, 2x10x10x8")]


def test_the_tables_of_a_record():
    text = "\n".join(tables.document(record()))
    label = "| up 2, k=5, 2x10x10x8 | float32"
    # Bytes at 1 GB/s: x, weights and y are 6400, 80000 and 25600.
    for line in (
        f"{label} | reassemble | forward | 112 | 2000 | 0.06 | 4000 | 2.00 | 8000 | 4.00 | - | - |",
        f"{label} | reassemble | backward | 198 | 40.0 (!) | 4.96 | - | - | - | - | - | - |",
        f"{label} | reassemble | both | 310 | 2040 (!) | 0.15 | - | - | - | - | - | - |",
        f"{label} | carafe | forward | 112 | 5.00 | 22.40 | - | - | - | - | - | - |",
        f"{label} | reassemble | forward | bands | 21.0 | 1.0e-03 |",
        f"{label} | reassemble | backward | apart | as default | - |",
        f"{label} | reassemble | backward | together | refused | - |",
        f"{label} | CARAFE xla | - | 77.0 |",
        f"{label} | reassemble | XLA | 1.0e-07 | 2.0e-07 | nan | - | NO |",
        f"{label} | reassemble | NumPy | 3.0e-07 | 4.0e-07 | 5.0e-07 | 6.0e-07 | yes |",
        "| waves | 1.4 |",
        "- dx: right with one slot",
        "- fast: mask head",
    ):
        assert line in text
    for words in ("NVIDIA H100", "driver 580.1", "jax 0.11.2", "`python3 -m bringup --out x`",
                  "seed 7", "complete"):  # fmt: skip
        assert words in text.splitlines()[0]


def test_a_wrong_case_marks_only_its_own_times():
    results = record()
    results["steps"][1]["outcome"] = "wrong"
    assert [line.split(" | ")[2:4] for line in marked(results)[:3]] == [
        ["reassemble", "backward"], ["reassemble", "both"], ["carafe", "forward"],
    ]  # fmt: skip


def marked(results):
    return [line for line in rows(results) if tables.DOUBTFUL in line]


def record_with(**changes):
    """A record in which only the given step can have failed."""
    results = record()
    results["steps"][0] = changes
    results["steps"].append(
        step("fast", "layers", [{"case": CASE.to_json(), "layer": "CARAFE mosaic_gpu",
                                 "pass": each, "microseconds": 50.0, "least": 40.0}
                                for each in ("forward", "both")])
    )  # fmt: skip
    return results


BANDS = ["reassemble", "forward", "bands"]
LAYER = ["CARAFE mosaic_gpu"]
WEIGHTS = [["reassemble", "forward"], ["reassemble", "backward"], ["reassemble", "both"]]


@pytest.mark.parametrize("outcome", ["wrong", "hang", "no time"])
def test_a_failed_check_of_a_case_marks_its_times(outcome):
    check = {"case": CASE.to_json(), "errors": [1.0, 1.0, 1.0], "repeats": True,
             "vmap_error": None, "passed": False}  # fmt: skip
    found = marked(record_with(**step("right", "checks, part 1 of 6", [check], outcome)))
    entries = [line.strip("| ").split(" | ")[2:] for line in found]
    assert [line[:2] for line in entries[:3]] == WEIGHTS
    assert len(entries) == 6  # including the table of variants
    assert [*tables.document(record_with(**step("right", "checks", [check])))]


def test_a_failed_step_of_all_kernels_marks_its_family():
    def failed(case):
        return record_with(**step("smoke", "all kernels", [], "hang", cases=[case.to_json()]))

    small = CASE.replace(height=3, channels=320)
    names = [line.strip("| ").split(" | ")[2:4] for line in marked(failed(small))]
    assert names[:3] == WEIGHTS
    assert not marked(failed(small.replace(up=1, down=2)))
    assert not marked(failed(small.replace(kernel_size=7)))
    assert not marked(failed(small.replace(dtype="bfloat16")))


@pytest.mark.parametrize("outcome", ["slow", "no time", "refused", "ok"])
def test_a_step_without_a_failure_marks_nothing(outcome):
    json_case = CASE.to_json()
    assert not marked(record_with(**step("smoke", "all kernels", [], outcome, cases=[json_case])))
    assert not marked(record_with(**step("right", "up 2", [], outcome, cases=[json_case])))


def test_a_variant_that_failed_marks_its_own_times_alone():
    found = marked(record_with(**step("smoke", "variant bands", [], "wrong", variant="bands")))
    assert [line.strip("| ").split(" | ")[2:5] for line in found] == [BANDS]


def test_a_kernel_in_a_layer_marks_the_layer():
    forward = step("smoke", "carafe forward float32", [], "wrong",
                   kernel=["carafe", "forward", "float32"])  # fmt: skip
    (line,) = [line for line in marked(record_with(**forward)) if "CARAFE" in line]
    assert line == "| up 2, k=5, 2x10x10x8 | float32 | CARAFE mosaic_gpu | 50.0 (!) | 50.0 (!) |"
    backward = step("smoke", "carafe dx float32", [], "wrong", kernel=["carafe", "dx", "float32"])
    (line,) = [line for line in marked(record_with(**backward)) if "CARAFE" in line]
    assert line.endswith("| 50.0 | 50.0 (!) |")


def test_marks_are_explained_below_the_tables():
    results = record_with(**step("smoke", "variant bands", [], "wrong", variant="bands"))
    assert "(!): a check of these kernels failed." in "\n".join(tables.document(results))
    assert "(!)" not in "\n".join(tables.document(record_with(**step("smoke", "fine", []))))


def numbers(value):
    """All floats in a nested value."""
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, float) else []


@given(data=st.data())
def test_tables_of_a_run_that_ended_early_have_only_measured_times(data):
    """Every time in a table is a dash, a measured time, or a sum of two."""
    results = record()
    keep = data.draw(st.sets(st.sampled_from(range(len(results["steps"])))))
    results["steps"] = [results["steps"][number] for number in sorted(keep)]
    for each in results["steps"]:
        count = data.draw(st.integers(0, len(each["measured"])))
        each["measured"] = each["measured"][:count]
    for name in data.draw(st.sets(st.sampled_from([*results["machine"]]))):
        del results["machine"][name]
    results["ended"] = data.draw(st.sampled_from([None, "SIGTERM"]))
    left = {tables.microseconds(number) for each in results["steps"] for number in
            numbers(each["measured"])}  # fmt: skip
    left |= {tables.microseconds(2040.0)} if {"2000", "40.0"} <= left else set()
    for line in tables.operators(results["steps"], results["machine"].get("bandwidth")):
        entries = line.strip("| ").split(" | ")
        if entries[0].startswith("2x"):
            times = entries[5].removesuffix(tables.DOUBTFUL), entries[7], entries[9], entries[11]
            assert set(times) <= {tables.NONE} | left
            assert entries[4] == tables.NONE or "bandwidth" in results["machine"]
    assert [*tables.document(results)]


def test_a_record_without_steps():
    results = {**record(), "steps": [], "machine": {}, "ended": None, "conclusions": [],
               "not_run": []}  # fmt: skip
    (only,) = tables.document(results)
    assert only.startswith("Card not known")
    assert "still running, or killed" in only
    assert "copy of 1 GiB, read and written: not measured" in only


def test_formats():
    assert [*map(tables.microseconds, (1.234, 12.34, 123.4, None))] == ["1.23", "12.3", "123", "-"]
    assert tables.ratio(3.0, 2.0) == "1.50"
    assert tables.ratio(None, 2.0) == tables.ratio(3.0, None) == tables.ratio(3.0, 0.0) == "-"
    assert tables.total(1.0, 2.0) == 3.0
    assert tables.total(1.0, None) is None


def test_the_command(tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(record()))
    assert tables.main([str(path)]) == 0
    assert re.search(r"^## Operators", capsys.readouterr().out, re.MULTILINE)


HUGE = json.dumps({**record(), "seconds": 10**400})
NESTED = "[" * 100_000


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"steps": 3}', HUGE, NESTED],
    ids=["absent", "empty", "list", "object", "number", "huge", "nested"],
)  # fmt: skip
def test_a_file_that_is_not_a_record_is_refused(tmp_path, capsys, content):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    assert tables.main([str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{path} is not a record of a run: ")
    assert err.count("\n") == 1


def test_the_command_needs_a_file(capsys):
    assert tables.main([]) == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_tables_do_not_change_the_record():
    results = record()
    before = copy.deepcopy(results)
    [*tables.document(results)]
    assert results == before
