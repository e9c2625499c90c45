"""Settings of the documentation: `make docs` builds it into build/docs, without a network.

Pages are Markdown, and the reference is made of docstrings. ``tests/test_documents.py`` runs every
block that is marked as ``python`` and compares what it prints. A table has one home: pages include
sections of the READMEs, from a heading to the next, or what lies between the comments
``<!-- begin: NAME -->`` and ``<!-- end: NAME -->``.
"""

import inspect
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

import carafe_jax

ROOT = Path(__file__).parents[1]

project = "carafe-jax"
author = "The carafe-jax authors"
version = release = carafe_jax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",  # a copy of MathJax in the site
]
html_theme = "furo"
html_title = "carafe-jax"
html_theme_options = {
    "light_css_variables": {
        "sidebar-item-spacing-vertical": "0.3rem",
        "sidebar-caption-space-above": "0.6rem",
    }
}
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 60
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Shapes of jaxtyping have asterisks, which Sphinx takes for emphasis. The texts give the shapes.
napoleon_attr_annotations = False

nitpicky = True
# The names of other projects have no target: their inventories would have to be downloaded.
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|flax|fractions|jax|jaxtyping|numpy)\..*"),
    # Types as signatures show them.
    (r"py:class", r"Array|DTypeLike|Initializer|Module|NamedSharding|P|PrecisionLike|Rngs|ndarray"),
]

# Pages include files of the repository. A link in such a file is relative to the folder of the
# file; on a page it leads to the page that shows the linked file or section.
PAGE_OF_FILE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "kernels/README.md": "how_it_works.md",
    "kernels/README.md#how-to-add-an-implementation": (
        "contributing.md#how-to-add-an-implementation"
    ),
    "experiments/README.md": "reproducing.md",
    "experiments/RESULTS.md": "results.md",
}
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<path>[^)#:\s]+)?(?P<anchor>#[^)\s]*)?\)")

# Default values and aliases of types, as signatures show them.
SIGNATURE_TEXTS = {
    r"<class 'jax\.numpy\.(\w+)'>": r"jax.numpy.\1",
    r"<function variance_scaling[^=,]*>|predictor\.COMPRESSOR_INIT": "xavier_uniform()",
    r"<function normal[^=,]*>|predictor\.ENCODER_INIT": "normal(stddev=0.001)",
    r"<function zeros[^=,]*>|predictor\.BIAS_INIT": "zeros",
    r"str \| type\[(~typing\.)?Any\] \| [~\w.]*dtype \| [~\w.]*SupportsDType": "DTypeLike",
    r"None \| str \| [~\w.]*Precision \|.*?DotAlgorithmPreset": "PrecisionLike",
    # Fields of every Linen module.
    r", parent: .*?_Sentinel object>, name: str \| None = None": "",
}
matched: set[str] = set()


def replace_links(app: Sphinx, included: Path, parent_docname: str, content: list[str]) -> None:
    """Turns the links of an included file into links between pages."""
    folder = (ROOT / "docs" / included).resolve().parent

    def on_page(link: re.Match[str]) -> str:
        if link["path"] is None:
            return link["text"]
        linked = (folder / link["path"]).resolve().relative_to(ROOT).as_posix()
        page = PAGE_OF_FILE.get(f"{linked}{link['anchor'] or ''}") or PAGE_OF_FILE.get(linked)
        if page:
            return f"[{link['text']}](/{page})"
        return f"`{linked}`" if link["text"] == linked else f"{link['text']} (`{linked}`)"

    content[0] = LINK.sub(on_page, content[0])


def signature_of_nnx(module: type) -> inspect.Signature:
    """The signature of an NNX module, whose metaclass hides it, with all options by name."""
    from carafe_jax.nnx import KernelPredictor

    _, *parameters = inspect.signature(module.__init__).parameters.values()
    named = [parameter for parameter in parameters if parameter.kind != parameter.VAR_KEYWORD]
    if len(named) < len(parameters):  # passes its other options to a KernelPredictor
        names = {parameter.name for parameter in named}
        _, *options = inspect.signature(KernelPredictor.__init__).parameters.values()
        named += [option for option in options if option.name not in names]
    return inspect.Signature(named)


def process_signature(
    app: Sphinx,
    what: str,
    name: str,
    documented: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Makes a signature readable."""
    from sphinx.util.inspect import stringify_signature

    if what == "class" and name.startswith("carafe_jax.nnx."):
        signature = stringify_signature(signature_of_nnx(documented), unqualified_typehints=True)
    if signature:
        for pattern, text in SIGNATURE_TEXTS.items():
            signature, found = re.subn(pattern, text, signature)
            if found:
                matched.add(pattern)
    return signature, returns


def check_signature_texts(app: Sphinx, exception: Exception | None) -> None:
    """Warns of patterns that match no signature, because another version of JAX writes it."""
    for pattern in sorted(SIGNATURE_TEXTS.keys() - matched):
        logging.getLogger(__name__).warning("no signature matches %r of SIGNATURE_TEXTS", pattern)


def setup(app: Sphinx) -> None:
    """Connects the functions of this file to Sphinx."""
    app.connect("include-read", replace_links)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("build-finished", check_signature_texts)
