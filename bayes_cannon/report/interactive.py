"""Figures that can be zoomed, by Bokeh, and the switches beside them, which are plain HTML."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bayes_cannon.plot._matplotlib import COLOURS, REFERENCE
from bayes_cannon.report.markup import Markup, tag

BLUE, ORANGE, GREEN = COLOURS[:3]
INK = "#3a4450"
Change = tuple[str, str, Any]
"""Name of a model of Bokeh, a property of it, and its new value; in a template ``{x}`` stands for the value of x."""
Choice = tuple[str, str, str, list[Change]]
"""One choice of a switch: value, text, group, and what it changes."""


def bokeh_plotting() -> Any:
    """Bokeh's plotting module. Raises ImportError where it is not installed."""
    try:
        from bokeh import plotting
    except ImportError:
        raise ImportError("a report needs bokeh and Matplotlib: install bayes-cannon[report]") from None
    return plotting


def source(columns: Mapping[str, Any], name: str) -> Any:
    """Columns, the numbers in single precision, which the screen cannot tell from double."""
    from bokeh.models import ColumnDataSource

    data = {key: _single(values) for key, values in columns.items()}
    return ColumnDataSource(data, name=name)


def _single(values: Any) -> Any:
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype.kind in "fiu" else array.tolist()


def figure(
    name: str, x_title: str, y_title: str, *, height: int = 300, x_range: Any = None, y_range: Any = None,
    tools: str = "xpan,pan,box_zoom,xwheel_zoom,reset",
) -> Any:  # fmt: skip
    """An empty figure as wide as the page, whose parts are named after it: ``NAME-x``, ``NAME-xaxis`` and so on."""
    from bokeh.models import Range1d

    ranges = {
        "x_range": Range1d(0, 1, name=f"{name}-x") if x_range is None else x_range,
        "y_range": Range1d(0, 1, name=f"{name}-y") if y_range is None else y_range,
    }
    one = bokeh_plotting().figure(
        height=height, sizing_mode="stretch_width", tools=tools, active_drag="box_zoom", active_scroll=None,
        toolbar_location="above", min_border_left=72, min_border_right=12, **ranges,
    )  # fmt: skip
    one.toolbar.logo = None
    one.background_fill_color = one.border_fill_color = one.outline_line_color = None
    one.xaxis.axis_label, one.yaxis.axis_label = x_title, y_title
    one.xaxis.name, one.yaxis.name = f"{name}-xaxis", f"{name}-yaxis"
    for axis in (one.xaxis, one.yaxis):
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_line_color = axis.major_tick_line_color = INK
        axis.minor_tick_line_color = None
    one.grid.grid_line_color, one.grid.grid_line_alpha = REFERENCE, 0.25
    return one


def set_range(one: Any, low: float, high: float) -> None:
    """Ends of a range, to which the tool for it goes back."""
    one.start = one.reset_start = float(low)
    one.end = one.reset_end = float(high)


def range_changes(name: str, limits: tuple[float, float]) -> list[Change]:
    """What a choice changes to give a range new ends."""
    low, high = map(float, limits)
    return [(name, "start", low), (name, "end", high), (name, "reset_start", low), (name, "reset_end", high)]


def limits_of(values: np.ndarray, *, robust: float = 0.0, margin: float = 0.06) -> tuple[float, float]:
    """Ends of an axis that shows all values, or all but this share of them at either end."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = np.quantile(known, [robust, 1 - robust])
    room = margin * (high - low) or 0.5 * abs(high) or 0.5
    return float(low - room), float(high + room)


def legend_above(one: Any) -> None:
    """Put the legend between the tools and the figure, where it covers nothing."""
    if not one.legend:
        return
    legend = one.legend[0]
    one.add_layout(legend, "above")
    legend.orientation, legend.click_policy = "horizontal", "hide"
    legend.background_fill_alpha = legend.border_line_alpha = 0.0
    legend.padding = legend.margin = 0
    legend.label_text_font_size, legend.label_text_color = "12px", INK


def switches(selects: Sequence[tuple[str, str, Iterable[Choice]]], templates: Sequence[Change] = ()) -> Markup:
    """Lists to choose from, each a caption, a name for the templates, and choices, the first of which is chosen."""
    return tag("div", *(_select(*one) for one in selects), class_="switches", data_templates=json.dumps(templates))


def _select(caption: str, name: str, choices: Iterable[Choice]) -> Markup:
    groups: dict[str, list[Markup]] = {}
    for value, shown, group, changes in choices:
        option = tag("option", shown, value=value, data_set=json.dumps(changes))
        groups.setdefault(group, []).append(option)
    inside = [
        option
        for group, options in groups.items()
        for option in ([tag("optgroup", *options, label=group)] if group else options)
    ]
    return tag("label", caption, " ", tag("select", *inside, data_switch=name, autocomplete="off"))
