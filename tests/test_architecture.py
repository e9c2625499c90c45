"""Imports go one way, experiments -> carafe_jax -> carafe_kernels, and stay light."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

import carafe_jax

ROOT = Path(__file__).parents[1]
CARAFE_JAX = ROOT / "carafe_jax"
CARAFE_KERNELS = ROOT / "kernels" / "carafe_kernels"
PACKAGES = [CARAFE_JAX, CARAFE_KERNELS, ROOT / "experiments"]
EXPERIMENT_MODULES = ("grain", "matplotlib", "optax", "orbax", "tensorflow_datasets", "tyro")


def modules(package):
    return sorted(package.rglob("*.py"))


def imported(path):
    """Full names of everything that a file imports absolutely."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level_imports(package):
    return {name.partition(".")[0] for path in modules(package) for name in imported(path)}


def declared_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {re.match(r"[\w-]+", entry)[0].replace("-", "_") for entry in project["dependencies"]}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_packages_are_where_these_tests_look(package):
    assert modules(package)


def test_kernels_know_nothing_above_them():
    assert top_level_imports(CARAFE_KERNELS).isdisjoint({"carafe_jax", "experiments", "flax"})


def test_the_library_knows_no_experiments():
    assert "experiments" not in top_level_imports(CARAFE_JAX)


@pytest.mark.parametrize("package", [CARAFE_JAX, CARAFE_KERNELS], ids=lambda path: path.name)
def test_the_library_imports_only_what_it_declares(package):
    own = {"carafe_jax", "carafe_kernels"}
    undeclared = top_level_imports(package) - sys.stdlib_module_names - own
    assert undeclared <= declared_dependencies()


OUTSIDE = [ROOT / "kernels", ROOT / "experiments", ROOT / "tests", ROOT / "docs"]


@pytest.mark.parametrize("folder", OUTSIDE, ids=lambda path: path.name)
def test_private_modules_are_imported_by_the_library_alone(folder):
    private = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules(folder)
        for name in imported(path)
        if re.match(r"carafe_jax\.(\w+\.)*_[a-z]", name)
    ]
    assert not private


def test_public_modules_are_those_that_the_library_lists():
    public = {path.stem for path in CARAFE_JAX.glob("*.py") if not path.stem.startswith("_")}
    assert public == {"convert", "convolution", "linen", "nnx", "sources"}
    assert public <= {*dir(carafe_jax)}


def run(program):
    """What a program prints, in a process of its own."""
    completed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return completed.stdout.split()


def test_importing_the_library_adds_nothing_that_only_experiments_need():
    program = f"""
import sys
import flax.linen, flax.nnx
before = set(sys.modules)
import carafe_jax, carafe_jax.linen, carafe_jax.nnx
added = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(added & set({EXPERIMENT_MODULES})))
"""
    assert run(program) == []


# What of Flax each import loads. Flax's NNX imports its Linen, and so the layers are looked at too.
LOADED = {
    "import carafe_jax; dir(carafe_jax)": [],
    "from carafe_jax import *": [],
    "from carafe_jax import linen; linen.CARAFE": ["carafe_jax.linen", "flax.linen"],
    "from carafe_jax.linen import CARAFE": ["carafe_jax.linen", "flax.linen"],
    "import carafe_jax; carafe_jax.nnx.CARAFE": ["carafe_jax.nnx", "flax.linen", "flax.nnx"],
}


@pytest.mark.parametrize("statement", LOADED)
def test_the_library_loads_the_flax_that_is_asked_for(statement):
    names = "carafe_jax.linen", "carafe_jax.nnx", "flax.linen", "flax.nnx"
    program = f"import sys\n{statement}\nprint(*[name for name in {names} if name in sys.modules])"
    assert run(program) == LOADED[statement]


def test_the_names_of_options_are_imported_without_jax():
    program = "import sys\nfrom carafe_jax import Implementation, Normalizer, __version__\n"
    assert run(f"{program}print('jax' in sys.modules)") == ["False"]
    assert get_args(carafe_jax.Implementation) == ("xla", "mosaic_gpu")
    assert get_args(carafe_jax.Normalizer) == ("softmax", "sigmoid", "sigmoid_normalized")


def test_the_version_is_that_of_the_distribution_and_of_the_citation():
    assert carafe_jax.__version__ == importlib.metadata.version("carafe-jax")
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {carafe_jax.__version__}\n" in citation


def test_the_library_lists_what_it_has_and_has_nothing_else():
    modules = {"convert", "convolution", "linen", "nnx", "sources"}
    public = {name for name in dir(carafe_jax) if not name.startswith("__")}
    assert public == {*carafe_jax.__all__} | modules
    assert "__version__" in dir(carafe_jax)
    with pytest.raises(AttributeError, match=r"carafe_jax.*tensorflow"):
        carafe_jax.tensorflow  # noqa: B018


def test_the_folder_of_the_kernels_hides_no_other_package_of_its_name(tmp_path):
    """The package ``kernels`` on PyPI: a checkout that comes first on the path must not hide it."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/__init__.py").write_text("found = True")
    path = f"sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]"
    program = f"import sys; {path}; import kernels; kernels.found"
    subprocess.run([sys.executable, "-c", program], check=True)


# What each part of the experiments may import of the others. Tasks are all that is not named.
SHARED = {
    "engine": set(),
    "data": {"engine"},
    "resamplers": {"engine"},
    "models": {"engine", "resamplers"},
    "weights": {"engine", "models"},
    "source_maps": {"engine", "resamplers"},
    "kernel_studies": {"engine"},
}
# Backbones of detection and segmentation were trained to classify. The pyramid has the loss and the
# metrics of segmentation.
BETWEEN_TASKS = {
    ("detection", "classification"),
    ("segmentation", "classification"),
    ("pyramid", "segmentation"),
}


def parts():
    folders = (ROOT / "experiments").iterdir()
    return sorted(each.name for each in folders if (each / "__init__.py").exists())


def test_the_parts_of_the_experiments_are_where_these_tests_look():
    assert {*SHARED, "benchmarks", "classification", "detection", "inpainting", "segmentation"} <= {
        *parts()
    }


@pytest.mark.parametrize("part", sorted({*parts()} - {"benchmarks"}))
def test_what_several_tasks_share_imports_no_task_and_tasks_do_not_import_each_other(part):
    imports = {
        name.split(".")[1]
        for path in modules(ROOT / "experiments" / part)
        for name in imported(path)
        if name.startswith("experiments.")
    }
    between = {other for task, other in BETWEEN_TASKS if task == part}
    allowed = SHARED.get(part, {*SHARED, *between})
    assert imports - {part} <= allowed


def test_weights_import_only_the_configs_of_models():
    """The names and shapes of weights are read without Flax."""
    imports = {
        name.split(".")[2]
        for path in modules(ROOT / "experiments/weights")
        for name in imported(path)
        if name.startswith("experiments.models.")
    }
    assert imports
    assert all(name.endswith("_config") for name in imports), imports


# What of the engine imports a part of it, besides the part itself: what is above it.
ABOVE = {"tables": {"commands"}, "monitoring": {"loop", "tables"}}


@pytest.mark.parametrize("part", ABOVE)
def test_the_parts_of_the_engine_are_imported_from_above_alone(part):
    engine = ROOT / "experiments" / "engine"
    importers = {
        path.relative_to(engine).with_suffix("").parts[0]
        for path in modules(engine)
        if any(name.startswith(f"experiments.engine.{part}.") for name in imported(path))
    }
    assert importers - {part} == ABOVE[part]


def test_no_kernel_is_written_in_pallas_triton():
    """It is deprecated since JAX 0.11; the kernels are written in Mosaic GPU."""
    for package in PACKAGES:
        for path in modules(package):
            assert not any(
                name.startswith("jax.experimental.pallas.triton") for name in imported(path)
            )
