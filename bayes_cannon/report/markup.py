"""Pieces of HTML. Whatever comes from a user is escaped here; what is already HTML is a `Markup`."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


class Markup(str):
    """Text that is HTML and is not escaped again."""

    __slots__ = ()


def text(value: Any) -> str:
    """A value as HTML: escaped, numbers to four digits."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, float | np.floating):
        return number(float(value))
    return html.escape(str(value))


def number(value: float, digits: int = 3) -> str:
    """A number with so many digits, a true minus sign, and without an exponent in the usual range."""
    if np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    size = abs(value)
    if value and not 1e-4 <= size < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return Markup(f"{mantissa}×10<sup>{int(exponent)}</sup>".replace("-", "\N{MINUS SIGN}"))
    decimals = max(0, digits - 1 - int(np.floor(np.log10(size)))) if value else 0
    return f"{value:,.{decimals}f}".replace("-", "\N{MINUS SIGN}").replace(",", "\N{NARROW NO-BREAK SPACE}")


def join(parts: Iterable[str]) -> Markup:
    """Pieces of HTML, one after the other."""
    return Markup("\n".join(parts))


def tag(name: str, *inside: Any, **attributes: Any) -> Markup:
    """An element with what is inside it; an underscore in the name of an attribute stands for a hyphen."""
    words = "".join(
        f' {key.strip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{words}>{''.join(map(text, inside))}</{name}>")


def paragraph(*inside: Any) -> Markup:
    """A paragraph."""
    return tag("p", *inside)


def note(*inside: Any) -> Markup:
    """A paragraph in smaller type, which says how a figure or a table is to be read."""
    return tag("p", *inside, class_="note")


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], caption: str = "") -> Markup:
    """A table; columns of numbers are aligned to the right."""
    rows = [list(row) for row in rows]
    numeric = [
        bool(rows) and all(isinstance(row[k], int | float | np.number) for row in rows) for k in range(len(head))
    ]

    def cells(row: Sequence[Any], name: str) -> Markup:
        return tag(
            "tr", *(tag(name, cell, **({"class_": "n"} if numeric[k] else {})) for k, cell in enumerate(row))
        )  # fmt: skip

    inside = [tag("caption", caption)] if caption else []
    inside += [tag("thead", cells(head, "th")), tag("tbody", *(cells(row, "td") for row in rows))]
    return tag("div", tag("table", *inside), class_="scroll")


def definitions(values: Mapping[str, Any]) -> Markup:
    """A list of names and what they stand for."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in values.items()))


def bullets(lines: Iterable[Any]) -> Markup:
    """A list."""
    return tag("ul", *(tag("li", line) for line in lines))


def code(line: str) -> Markup:
    """A command or a line of Python."""
    return tag("code", line)


def image(svg: str, description: str) -> Markup:
    """A figure as SVG, with a description for those who do not see it."""
    return tag("figure", Markup(svg), class_="static", role="img", aria_label=description)


def place(name: str, description: str) -> Markup:
    """Where the interactive figure of this name is put; a user's text cannot hold it, because that is escaped."""
    return tag("figure", Markup(f"<!--figure {name}-->"), class_="interactive", role="img", aria_label=description)
