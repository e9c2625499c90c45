import json
import re
import tomllib
from typing import get_args

import jax
import pytest

import carafe_jax
from experiments.classification.presets import CATALOGUE as CLASSIFICATION
from experiments.detection.presets import CATALOGUE as DETECTION
from experiments.inpainting.presets import CATALOGUE as INPAINTING
from experiments.pyramid.presets import CATALOGUE as PYRAMID
from experiments.segmentation.presets import CATALOGUE as SEGMENTATION
from tests.documents import DOCUMENTS, README, ROOT, examples, expected_output
from tests.slow import slow

PAGES = [page for page in DOCUMENTS if page != README and examples(page)]
# Guides and recipes compile several networks.
PAGES = [slow(page) if page.parent.name in ("guides", "recipes") else page for page in PAGES]


def output(example, names, capsys):
    """The lines that an example prints, run with these names."""
    with jax.numpy_rank_promotion("allow"):  # as in a reader's session
        exec(compile(example, "example", "exec"), names)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_print_what_they_say(page, capsys):
    names = {"__name__": "__main__"}  # an example may use the names of the examples before it
    for example in examples(page):
        assert output(example, names, capsys) == expected_output(example)
    assert expected_output(example), "the last example of a page shows a result"


@pytest.mark.parametrize("example", examples(README), ids=range(1, len(examples(README)) + 1))
def test_an_example_of_the_readme_prints_what_it_says(example, capsys):
    assert expected_output(example), "an example shows a result"
    assert output(example, {"__name__": "__main__"}, capsys) == expected_output(example)


def test_the_readme_has_an_example_for_each_use():
    text = "\n".join(examples(README))
    for use in ("carafe_jax.linen", "carafe_jax.nnx", "jax.pmap", "jax.jit", "jax.export"):
        assert use in text


@pytest.mark.parametrize(
    ("task", "catalogue"),
    [
        ("classification", CLASSIFICATION),
        ("detection", DETECTION),
        ("inpainting", INPAINTING),
        ("pyramid", PYRAMID),
        ("segmentation", SEGMENTATION),
    ],
)
def test_the_documentation_has_the_command_of_each_table(task, catalogue):
    page = (ROOT / "docs" / "reproducing.md").read_text()
    for name in catalogue.experiments:
        assert f"python -m experiments.{task} {name}`" in page


def anchors(page):
    """The anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings]
    return {each.strip().replace(" ", "-") for each in words}


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "kernels/README.md"),
        *("experiments/README.md", "experiments/RESULTS.md"),
    ],
)
def test_every_link_of_a_page_leads_somewhere(name):
    page = ROOT / name
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_badges_of_the_readme_say_what_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"python": project["requires-python"].removeprefix(">=")}
    for entry in project["dependencies"]:
        name, _, version = entry.partition(">=")
        needed[name] = version
    badges = dict(re.findall(r"img.shields.io/badge/(\w+)-([\d.]+)%2B", README.read_text()))
    assert badges == {name: needed[name] for name in ("python", "jax", "flax")}
    assert f"licence-{project['license'].replace('-', '--')}-" in README.read_text()


@pytest.mark.parametrize("name", ["Implementation", "Normalizer"])
def test_the_reference_lists_the_names_of_options(name):
    text = (ROOT / "docs" / "api" / "carafe_jax.md").read_text()
    (literal,) = re.findall(rf"carafe_jax\.{name}\n   :type: Literal\[(.*)\]", text)
    assert tuple(json.loads(f"[{literal}]")) == get_args(getattr(carafe_jax, name))
