import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks.cases import Case
from experiments.benchmarks.layer import CASES, layers_of, print_tables, time_parts
from tests.experiments.benchmarks.markdown_tables import tables

SMALL = [
    Case(1, 4, 5, 8, kernel_size=3, up=2),
    Case(1, 4, 6, 8, kernel_size=3, down=2, dtype="bfloat16"),
]
LAYERS = {
    "up": ["CARAFE", "CARAFE, memory kept", "ConvTranspose 2x2", "bilinear and Conv 3x3",
           "our deconvolution 2x2"],
    "down": ["CARAFE", "CARAFE, memory kept", "strided Conv 3x3", "max pooling 3x3"],
}  # fmt: skip


def test_cases_have_distinct_labels():
    assert len({case.label for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", [*SMALL, Case(1, 3, 3, 8, up=4)], ids=str)
def test_all_layers_of_a_case_have_the_same_output_shape(case):
    x = jnp.ones(case.x_shape, case.dtype)
    for layer in layers_of(case).values():
        y, _ = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
        assert (y.shape, y.dtype) == (case.y_shape, x.dtype)


@pytest.mark.slow
def test_the_table_has_a_row_for_each_layer(in_this_process, capsys):
    print_tables(SMALL, rounds=1)
    layers, parts = tables(capsys.readouterr().out)
    assert layers[0][:4] == ["", "layer", "forward, ms", "forward, times CARAFE"]
    assert [row[1] for row in layers[1:]] == LAYERS["up"] + LAYERS["down"]
    assert [row[0] for row in layers[1:] if row[0]] == [case.label for case in SMALL]
    assert [row[0] for row in parts] == ["ms", *(case.label for case in SMALL)]
    assert in_this_process == ["defaults", *["defaults", "memory kept"] * 2]


def test_every_part_of_the_layer_is_timed():
    times = time_parts(SMALL[0], rounds=1)
    assert list(times) == [
        "channel compressor",
        "content encoder",
        "normaliser",
        "reassembly",
        "whole layer",
        "gradient of the channel compressor",
        "gradient of the content encoder",
        "gradient of the normaliser",
        "input gradient",
        "weight gradient",
        "whole layer with gradient",
    ]
    assert all(timing.milliseconds > 0 for timing in times.values())
