"""The page: sections, what is missing, and one HTML file of them, without a framework."""

import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from bayes_cannon.io.atomic import atomic_path
from bayes_cannon.report.markup import Markup, join, tag

INLINE_HEIGHT = "85vh"
"""Of the page in a notebook."""


@dataclass(frozen=True)
class Section:
    """One section of a page.

    Attributes
    ----------
    title
        Plain text.
    body
        HTML.
    plots
        Bokeh's models by the name of their place in the body (`markup.place`).

    """

    title: str
    body: Markup
    plots: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Missing:
    """A section that cannot be made: why, and the command or line of Python that gives what it needs."""

    title: str
    reason: str
    how_to_get_it: str


Maker = Callable[[Any], Section | Missing]


@dataclass(frozen=True)
class Report:
    """A finished page.

    Attributes
    ----------
    title
        Plain text.
    sections
        By the name of the section, what it tells or why it is missing.
    html
        The whole file.

    """

    title: str
    sections: Mapping[str, Section | Missing]
    html: str = field(repr=False)

    def write(self, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Write the file and return its path.

        Raises
        ------
        FileExistsError
            If the file exists and ``overwrite`` is False.

        """
        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(self.html, encoding="utf-8")
        return Path(path)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its styles stay in it."""
        page = html.escape(self.html)
        style = f"width: 100%; height: {INLINE_HEIGHT}; border: 1px solid #8884"
        return f'<iframe srcdoc="{page}" title="{html.escape(self.title)}" style="{style}"></iframe>'


def make_page(title: str, subtitle: str, sections: Mapping[str, Section | Missing]) -> Report:
    """Put sections together: contents, those that are there, and a list of those that are missing."""
    there = {name: one for name, one in sections.items() if isinstance(one, Section)}
    missing = {name: one for name, one in sections.items() if isinstance(one, Missing)}
    bodies = [tag("section", tag("h2", one.title), one.body, id=name) for name, one in there.items()]
    if missing:
        bodies.append(tag("section", tag("h2", "Not on this page"), _missing(missing), id="missing"))
    body = join(bodies)
    plots = {key: plot for one in there.values() for key, plot in one.plots.items()}
    scripts, divs = _scripts(plots)
    for key, div in divs.items():
        body = Markup(body.replace(f"<!--figure {key}-->", div))
    contents = [(name, one.title) for name, one in there.items()] + [("missing", "Not on this page")] * bool(missing)
    page = _TEMPLATE.format(
        title=html.escape(title), subtitle=html.escape(subtitle), contents=_contents(contents), body=body,
        style=_resource("page.css"), behaviour=_resource("page.js"), scripts=scripts,
    )  # fmt: skip
    return Report(title, dict(sections), page)


def _missing(missing: Mapping[str, Missing]) -> Markup:
    rows = (
        tag("li", tag("strong", one.title), f": {one.reason}. ", tag("code", one.how_to_get_it), id=name)
        for name, one in missing.items()
    )
    return tag("ul", *rows, class_="missing")


def _contents(entries: Sequence[tuple[str, str]]) -> Markup:
    links = (tag("li", tag("a", title, href=f"#{name}")) for name, title in entries)
    return tag("ul", *links)


def _scripts(plots: Mapping[str, Any]) -> tuple[str, Mapping[str, str]]:
    """Bokeh itself and its figures, and the element of each figure by name."""
    if not plots:
        return "", {}
    try:
        from bokeh.embed import components
        from bokeh.resources import Resources
    except ImportError:
        raise ImportError("a report needs bokeh and Matplotlib: install bayes-cannon[report]") from None
    script, divs = components(dict(plots))
    return Resources(mode="inline", components=["bokeh"]).render_js() + script, divs


def _resource(name: str) -> str:
    return files("bayes_cannon.report").joinpath(name).read_text(encoding="utf-8")


_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="bayes_cannon">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<header><h1>{title}</h1><p>{subtitle}</p></header>
<div class="columns">
<nav aria-label="Contents"><details open><summary>Contents</summary>{contents}</details></nav>
<main>
{body}
</main>
</div>
{scripts}
<script>
{behaviour}
</script>
</body>
</html>
"""
