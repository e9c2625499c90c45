"""Help texts and errors of options do not import the libraries that only the work needs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The experiments and their dependencies that take long to import.
WORK = {
    "array_record", "flax", "gradio", "grain", "jax", "matplotlib", "optax", "orbax", "PIL",
    "pycocotools", "safetensors", "scipy", "skimage", "sklearn", "tensorboardX",
    "tensorflow_datasets",
}  # fmt: skip
HELP = {
    "classification": ["train", "train table2-resnet50", "table2", "evaluate", "predict",
                       "replace-kernels", "kernel-sums", "convert"],
    "detection": ["train", "train table4-carafe", "table4", "evaluate", "predict",
                  "own-object"],
    "segmentation": ["train", "train table9-ppm", "table9", "evaluate", "predict", "own-region",
                     "replace-kernels", "kernel-sums", "compare", "convert"],
    "inpainting": ["train", "train cpu-global-local", "demo", "evaluate", "predict",
                   "replace-kernels", "kernel-sums", "compare", "serve"],
    "pyramid": ["train", "train carafe", "table4", "features", "evaluate", "replace-kernels",
                "kernel-sums"],
}  # fmt: skip
# Libraries that compute or read training data, and are not needed to prepare data.
NOT_FOR_DATA = {"flax", "grain", "jax", "optax", "orbax"}
DATA = [
    "ade20k", "coco", "composed.debian", "composed.label_scenes", "composed.scenes", "imagenet",
    "places",
]  # fmt: skip
PROGRAM = """
import contextlib, io, runpy, sys

for line in {lines}:
    sys.argv = ["program", *line.split()]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            runpy.run_module("experiments.{name}", run_name="__main__")
        except SystemExit as ended:
            assert ended.code == (0 if "--help" in line else 2), line
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def imported(name, lines):
    """Returns the packages that a program has imported after handling each line of arguments."""
    program = PROGRAM.format(name=name, lines=lines)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    packages = set(done.stdout.split())
    assert "tyro" in packages
    return packages


@pytest.mark.parametrize("task", HELP)
def test_help_and_a_mistyped_option_import_no_library_of_the_work(task):
    lines = [
        "--help",
        *(f"{command} --help" for command in HELP[task]),
        "evaluate --mistyped",
        "evaluate run --batch-size 0",
    ]
    assert sorted(imported(task, lines) & WORK) == []


@pytest.mark.parametrize("name", DATA)
def test_help_and_a_mistyped_option_of_a_data_program_import_no_jax(name):
    packages = imported(f"data.{name}", ["--help", "--mistyped"])
    assert sorted(packages & NOT_FOR_DATA) == []
