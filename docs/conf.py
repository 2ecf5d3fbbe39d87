"""The site: ``uv run --group docs sphinx-build -W -b html docs docs/_build/html``. Nothing is downloaded.

Files that live elsewhere in the project (notebooks, results of the benchmarks, model cards, notes for those who work on
it) are copied to ``docs/copied`` and the figures of the gallery are made anew, so that nothing is written twice.
"""

import os
import re
import shutil
from importlib.metadata import version as installed_version
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")

HERE = Path(__file__).parent
ROOT = HERE.parent
COPIED, FIGURES = HERE / "copied", HERE / "figures"
REPOSITORY = "https://github.com/bayes-cannon/bayes_cannon/blob/main"

project = "bayes_cannon"
author = project_copyright = "The bayes_cannon developers"
release = version = installed_version("bayes-cannon")

extensions = [
    "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "numpydoc", "myst_nb",
]  # fmt: skip
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
default_role = "py:obj"
# Single backticks in docstrings are links where there is one such name on the site, and plain otherwise.
suppress_warnings = ["ref.python"]

nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_title = "bayes_cannon"
html_show_sourcelink = False
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False, "secondary_sidebar_items": ["page-toc"]}


def copy_page(source: str, target: str) -> None:
    """Copy a page; what it links to beside itself is linked where the project is published."""
    place = (ROOT / source).parent

    def absolute(link: re.Match) -> str:
        path, hash_, anchor = link[1].partition("#")
        found = Path(os.path.normpath(place / path)).relative_to(ROOT)
        return f"]({REPOSITORY}/{found}{hash_}{anchor})"

    text = re.sub(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)", absolute, (ROOT / source).read_text())
    (COPIED / target).write_text(text)


def copy_pages() -> None:
    """Pages and notebooks from elsewhere in the project."""
    shutil.rmtree(COPIED, ignore_errors=True)
    COPIED.mkdir()
    for name in ("CONTRIBUTING", "CHANGELOG"):
        copy_page(f"{name}.md", f"{name.lower()}.md")
    copy_page("benchmarks/RESULTS.md", "results.md")
    for card in sorted(ROOT.glob("models/*/README.md")):
        copy_page(str(card.relative_to(ROOT)), f"{card.parent.name}.md")
    for notebook in sorted(ROOT.glob("notebooks/*.ipynb")):
        shutil.copy(notebook, COPIED)


def draw_gallery() -> None:
    """Run the code of the gallery, whose figures are then those that the page shows."""
    FIGURES.mkdir(exist_ok=True)
    blocks = re.findall(r"^```python\n(.*?)^```$", (HERE / "gallery.md").read_text(), re.DOTALL | re.MULTILINE)
    before = Path.cwd()
    os.chdir(FIGURES)
    try:
        exec(compile("\n".join(blocks), "gallery.md", "exec"), {"__name__": "gallery"})
    finally:
        os.chdir(before)


copy_pages()
draw_gallery()
