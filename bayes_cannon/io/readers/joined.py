"""Spectra whose segments came in several files, such as the CCDs of GALAH, as one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bayes_cannon.io.readers.survey_spectra import SurveySpectra

_COMMON = ("noise_kind", "medium", "frame", "flux_unit")


def join_segments(spectra: Sequence[SurveySpectra]) -> list[SurveySpectra]:
    """Join records of the same reader, stars and ``which`` that hold different segments.

    Segments then stand in the order of their wavelengths. A column of the same values in all records keeps its name;
    one that differs, or that some records do not have, is given for each segment, as ``SNR_CCD1``. Where velocities
    differ the files do not say one, and it is NaN. Records that hold the same segments are different spectra: they are
    returned as they are.

    Parameters
    ----------
    spectra
        Records, in any order.

    Returns
    -------
    joined
        In the order of the first record of each.

    Raises
    ------
    ValueError
        If only some of the segments of two records are the same, or records differ in what their noise, medium, frame
        or unit is.

    """
    groups: dict[tuple, list[SurveySpectra]] = {}
    for record in spectra:
        groups.setdefault((record.reader, tuple(record.star_id), tuple(record.which)), []).append(record)
    return [joined for group in groups.values() for joined in _joined(group)]


def _joined(group: list[SurveySpectra]) -> list[SurveySpectra]:
    names = [_names(record) for record in group]
    if all(set(other) == set(names[0]) for other in names):
        return group
    said = [name for record in names for name in record]
    twice = sorted({name for name in said if said.count(name) > 1})
    first = group[0]
    whose = f"the {first.which[0]} spectrum of {first.star_id[0]}"
    if twice:
        raise ValueError(f"segment {twice[0]!r} of {whose} is in several files: give one of them")
    for what in _COMMON:
        values = {getattr(record, what) for record in group}
        if len(values) > 1:
            raise ValueError(f"the segments of {whose} differ in {what}: {', '.join(map(str, values))}")
    columns, units = _columns(group)
    velocity = np.array([record.velocity for record in group])
    return [
        replace(
            first,
            segments=sorted((s for record in group for s in record.segments), key=lambda s: s.wavelength.min()),
            identifiers={name: values for record in reversed(group) for name, values in record.identifiers.items()}
            | dict(first.identifiers),
            velocity=np.where((velocity == velocity[0]).all(axis=0), velocity[0], np.nan),
            columns=columns,
            units=units,
        )
    ]


def _names(record: SurveySpectra) -> list[str]:
    return [segment.name for segment in record.segments]


def _columns(group: list[SurveySpectra]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    columns: dict[str, np.ndarray] = {}
    units: dict[str, str] = {}
    for name in dict.fromkeys(name for record in group for name in record.columns):
        having = [record for record in group if name in record.columns]
        common = len(having) == len(group) and all(_same(r.columns[name], group[0].columns[name]) for r in having)
        for record in having[:1] if common else having:
            called = name if common else f"{name}_{'_'.join(_names(record))}"
            columns[called] = record.columns[name]
            if name in record.units:
                units[called] = record.units[name]
    return columns, units


def _same(values: np.ndarray, others: np.ndarray) -> bool:
    return np.array_equal(values, others, equal_nan=values.dtype.kind == "f" and others.dtype.kind == "f")
