"""The sections of a page, in their order: functions of the subject, each a `Section` or what is `Missing` for it."""

from functools import partial
from typing import Any

from bayes_cannon.report import of_labels, of_pixels, of_spectra, of_training
from bayes_cannon.report.page import Maker

SECTIONS: tuple[Any, ...] = (
    of_training.at_a_glance,
    of_training.training,
    of_labels.validation,
    of_labels.pulls,
    of_labels.coverage,
    of_labels.error_sources,
    of_pixels.wavelengths,
    of_pixels.factors,
    of_pixels.worst_pixels,
    of_spectra.worst_stars,
    of_labels.statuses,
    of_training.certificates,
    of_training.chains,
    of_training.label_space,
    of_pixels.lambda_path,
)
"""One after the other. A name is the anchor of its section in the page."""

_LINKED: tuple[Any, ...] = (of_pixels.wavelengths, of_pixels.factors, of_spectra.worst_stars)


def makers() -> dict[str, Maker]:
    """The sections by name; those over wavelength share the range that they zoom."""
    ranges: dict[int, Any] = {}
    return {one.__name__.replace("_", "-"): partial(one, ranges=ranges) if one in _LINKED else one for one in SECTIONS}
