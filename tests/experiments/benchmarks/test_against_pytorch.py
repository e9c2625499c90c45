"""What the benchmarks compare with in PyTorch computes the same, and gets its columns."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import networks, processes, pytorch, torch_operator
from experiments.benchmarks.cases import Case
from experiments.benchmarks.machine import cores
from experiments.benchmarks.network_times import Sizes
from experiments.benchmarks.operator import print_tables
from experiments.benchmarks.operator_times import arrays
from experiments.benchmarks.torchvision_networks import all_layouts
from tests.experiments.benchmarks.markdown_tables import tables
from tests.experiments.benchmarks.passes_oracle import results_of

pytestmark = pytest.mark.torch

FORMS = ["torch unfold", "torch taps, NCHW", "torch taps, NHWC"]
LAYOUTS = ["torchvision, NCHW", "torchvision, channels last"]


@pytest.fixture(scope="module")
def torch():
    return pytorch.load("cpu")


def test_it_has_as_many_threads(torch):
    assert torch.get_num_threads() == cores()


@pytest.mark.parametrize("case", [Case(2, 5, 4, 3, up=2), Case(1, 7, 5, 3, kernel_size=3, down=2)])
@pytest.mark.parametrize("name", FORMS)
def test_every_pass_of_a_form_is_right(torch, name, case):
    operands = arrays(case)
    form = torch_operator.forms(torch, case)[name]
    tensors = torch_operator.tensors(torch, form, operands, "cpu")

    def run(function):
        results = function(*tensors)
        results = results if isinstance(results, tuple) else [results]
        return [
            np.asarray((each.movedim(1, 3) if form.channels_first else each).detach())
            for each in results
        ]

    found = {each: run(function) for each, function in
             torch_operator.passes(torch, form.function).items()}  # fmt: skip
    expected = results_of(case, *operands)
    assert found.keys() == expected.keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def test_tensors_have_the_dtype_of_the_arrays(torch):
    case = Case(1, 3, 3, 2, up=2, dtype="bfloat16")
    form = torch_operator.forms(torch, case)["torch unfold"]
    x, *_ = torch_operator.tensors(torch, form, arrays(case), "cpu")
    assert x.dtype == torch.bfloat16
    assert x.shape == (1, 2, 3, 3)
    assert x.is_contiguous()


@pytest.mark.usefixtures("in_this_process")
def test_every_form_is_a_column(torch, capsys):
    print_tables([Case(1, 4, 4, 3, kernel_size=1, up=2)], rounds=1)
    printed = capsys.readouterr().out
    assert f"PyTorch {torch.__version__}" in printed
    assert tables(printed)[0][0][-3:] == [f"{name}, ms (times ours)" for name in FORMS]


@pytest.mark.parametrize("name", LAYOUTS)
def test_networks_of_torchvision_compute_what_ours_do(torch, name):
    layout = all_layouts("cpu")[name]
    image = jnp.ones((2, 64, 64, 3))
    assert layout.classification(18, 10, image)().shape == (2, 10)
    (found,) = layout.detection(18, 90, image[:1])()
    assert found.keys() == {"boxes", "labels", "scores"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_training_step_of_torchvisions_lowers_the_loss(torch, name, monkeypatch):
    losses = []
    cross_entropy = torch.nn.functional.cross_entropy

    def recorded(*arguments):
        loss = cross_entropy(*arguments)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(importlib.import_module("torch.nn.functional"), "cross_entropy", recorded)
    image = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    step = all_layouts("cpu")[name].training(18, 10, image, jnp.arange(4), 0.01, 0.9)
    for _ in range(5):
        step()
    assert losses[-1] < losses[0] / 2


@pytest.mark.usefixtures("in_this_process")
def test_networks_of_torchvision_are_rows(monkeypatch, capsys):
    monkeypatch.setattr(processes, "can_keep_memory", lambda platform: False)
    networks.run(rounds=1, sizes=Sizes(depth=18, batch=2, side=32, detected=(64, 64)))
    ((_, *rows),) = tables(capsys.readouterr().out)
    assert [row[1] for row in rows if row[-1] == "-"] == LAYOUTS * 3
