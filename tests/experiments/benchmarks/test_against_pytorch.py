"""The formulations in PyTorch give the same results as ours, and have columns in the tables."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import networks, processes, pytorch, torch_operator
from experiments.benchmarks.calls import arrays
from experiments.benchmarks.cases import Case
from experiments.benchmarks.machine import cores
from experiments.benchmarks.networks import CLASSES, Sizes, resnets
from experiments.benchmarks.operator import print_tables
from experiments.benchmarks.torch_operator import Form
from experiments.benchmarks.torchvision_networks import all_layouts
from tests.experiments.benchmarks.markdown_tables import tables
from tests.experiments.benchmarks.passes_oracle import results_of

pytestmark = pytest.mark.torch

LAYOUTS = ["torchvision, NCHW", "torchvision, channels last"]


@pytest.fixture(scope="module")
def torch():
    return pytorch.load("cpu")


def test_pytorch_has_a_thread_for_each_core(torch):
    assert torch.get_num_threads() == cores()


@pytest.mark.parametrize("case", [Case(2, 5, 4, 3, up=2), Case(1, 7, 5, 3, kernel_size=3, down=2)])
@pytest.mark.parametrize("form", Form)
def test_every_pass_of_a_form_agrees_with_the_oracle(torch, form, case):
    operands = arrays(case)
    tensors = [form.arranged(pytorch.tensor(torch, each, "cpu")) for each in operands]

    def run(function):
        results = function(*tensors)
        results = results if isinstance(results, tuple) else [results]
        return [np.asarray(form.channels_last(each).detach()) for each in results]

    found = {name: run(each) for name, each in torch_operator.passes(torch, form, case).items()}
    expected = results_of(case, *operands)
    assert found.keys() == expected.keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def test_the_compiled_form_compiles_a_pass_as_one_graph(torch, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        calls = [node.target for node in graph.graph.nodes if node.op.startswith("call")]
        graphs.append({getattr(target, "__name__", target) for target in calls})
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    case = Case(1, 3, 3, 2, kernel_size=1, up=2)
    tensors = [pytorch.tensor(torch, each, "cpu") for each in arrays(case)]
    for run in torch_operator.passes(torch, Form.COMPILED, case).values():
        run(*tensors)
    forward, with_gradient, relu, squared = graphs
    assert forward == with_gradient
    assert relu == forward | {"relu", "sum"}
    assert forward | {"mean"} < squared


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_have_the_values_and_dtypes_of_the_arrays(torch, dtype):
    x, *_ = arrays(Case(1, 3, 4, 2, up=2, dtype=dtype))
    tensor = pytorch.tensor(torch, x, "cpu")
    assert tensor.dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(tensor.float().numpy(), x.astype(jnp.float32))
    arranged = Form.UNFOLD.arranged(tensor)
    assert arranged.shape == (1, 2, 3, 4)
    assert arranged.is_contiguous()


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("compiler", [True, False])
def test_the_table_has_a_column_for_each_form(torch, compiler, monkeypatch, capsys):
    monkeypatch.setattr(pytorch, "can_compile", lambda *_: compiler)
    print_tables([Case(1, 4, 4, 3, kernel_size=1, up=2)], rounds=1)
    printed = capsys.readouterr().out
    assert f"PyTorch {torch.__version__}" in printed
    assert ("no C++ compiler: compiled PyTorch is left out" in printed) != compiler
    forms = [form for form in Form if compiler or form is not Form.COMPILED]
    names = [f"{form}, ms (times ours)" for form in forms]
    assert tables(printed)[0][0][-len(names) - 1 :] == ["XLA patches, temp / (x+w+y)", *names]


def test_compiling_on_a_cpu_needs_a_cpp_compiler(torch, monkeypatch):
    assert pytorch.can_compile(torch, "cpu")
    builder = importlib.import_module("torch._inductor.cpp_builder")
    builder.cpp_compiler_search.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert not pytorch.can_compile(torch, "cpu")
    assert pytorch.can_compile(torch, "gpu")


@pytest.mark.parametrize("name", LAYOUTS)
def test_torchvision_resnets_give_the_same_logits_as_ours(name):
    layout, sizes = all_layouts("cpu")[name], Sizes(depth=18, batch=2, side=64)
    image = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    model, variables = resnets(sizes)["ours"]
    logits = layout.classification(18, CLASSES, image)()
    assert logits.std() > 0.1
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, image), atol=1e-3)


def test_torchvision_detectors_give_the_same_detections_in_every_layout():
    image = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    first, second = (each.detection(18, 90, image)()[0] for each in all_layouts("cpu").values())
    assert first.keys() == second.keys() == {"boxes", "labels", "scores"}
    for name, values in first.items():
        np.testing.assert_allclose(values, second[name], atol=1e-3)


@pytest.mark.parametrize("name", LAYOUTS)
def test_training_steps_of_torchvision_networks_lower_the_loss(torch, name, monkeypatch):
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
def test_the_table_has_rows_for_torchvision_networks(monkeypatch, capsys):
    monkeypatch.setattr(processes, "libc_ver", lambda: ("", ""))
    networks.run(rounds=1, sizes=Sizes(depth=18, batch=2, side=32, detected=(64, 64)))
    ((_, *rows),) = tables(capsys.readouterr().out)
    assert [row[1] for row in rows if row[-1] == "-"] == LAYOUTS * 3
