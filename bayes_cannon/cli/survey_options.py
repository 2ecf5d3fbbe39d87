"""Options of commands that read survey files, and what they mean."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bayes_cannon.io.survey_files import FileSettings

_OPTIONS = (
    click.option(
        "--survey", default="auto", show_default=True, metavar="NAME",
        help='Format of the files, such as "apogee-apstar"; auto looks at each.',
    ),
    click.option(
        "--grid", metavar="GRID",
        help='Wavelengths to put the spectra on: a survey\'s, such as "apogee"; those of a model file; or '
        '"FIRST LAST STEP" in Angstrom, or "FIRST LAST STEP log" with the step in log10. By default those of the '
        "files, if all share them.",
    ),
    click.option(
        "--velocity", default="header", show_default=True, metavar="header|COLUMN|none",
        help="What takes the spectra to rest: the velocity in the file, or a column, km/s.",
    ),
    click.option(
        "--combined", type=click.Choice(("combined", "combined 2", "visits", "all")), default="combined",
        show_default=True, help="Which of the spectra of a star.",
    ),
    click.option(
        "--mask-bits", metavar="NAMES",
        help='Bits of the mask that make a pixel unusable, with commas between; "none" for none of them. By default '
        "those that suit the survey.",
    ),
)  # fmt: skip


def survey_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def file_settings(
    survey: str, grid: str | None, velocity: str, combined: Any, mask_bits: str | None
) -> "FileSettings":  # fmt: skip
    """What they say."""
    from bayes_cannon.io.survey_files import FileSettings

    bits: Any = (
        "default" if mask_bits is None else [bit.strip() for bit in mask_bits.split(",") if bit.strip() != "none"]
    )
    return FileSettings(
        None if survey == "auto" else survey, None if grid is None else _grid(grid), velocity, bits, combined
    )


def _grid(text: str) -> Any:
    """The grid that a text names."""
    from bayes_cannon.io.gridding import find_grid

    words: list[Any] = text.replace(",", " ").split()
    return find_grid(tuple(words) if len(words) in (3, 4) and not Path(text).exists() else text)
