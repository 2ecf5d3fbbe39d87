"""Segments of several files as one spectrum."""

import numpy as np
import pytest

from bayes_cannon.io.readers.joined import join_segments
from bayes_cannon.io.readers.survey_spectra import Segment, SurveySpectra


def record(star="a", name="blue", start=4000.0, which="combined", **changes):
    segment = Segment(start + np.arange(3.0), np.ones((1, 3)), np.ones((1, 3)), name=name)
    standard = {
        "reader": "survey", "segments": [segment], "identifiers": {"ID": [star]}, "noise_kind": "ivar",
        "velocity": [5.0], "which": [which], "medium": "air",
    }  # fmt: skip
    return SurveySpectra(**(standard | changes))


def test_the_same_star_and_kind_are_joined():
    spectra = [
        record(name="red", start=6000, identifiers={"ID": ["a"], "TIC": ["7"]}, columns={"SNR": [3.0], "MJD": [9.0]}),
        record("b"),
        record(which="visit 1"),
        record(columns={"SNR": [4.0], "MJD": [9.0], "SEEING": [1.5]}, units={"SEEING": "arcsec", "MJD": "d"}),
    ]
    joined, other, visit = join_segments(spectra)
    assert other is spectra[1]
    assert visit is spectra[2]
    assert [segment.name for segment in joined.segments] == ["blue", "red"]
    assert joined.identifiers == {"ID": ["a"], "TIC": ["7"]}
    assert {name: list(values) for name, values in joined.columns.items()} == {
        "SNR_red": [3], "SNR_blue": [4], "MJD": [9], "SEEING_blue": [1.5],
    }  # fmt: skip
    assert joined.units == {"SEEING_blue": "arcsec"}
    assert joined.velocity == [5]


def test_nan_is_the_same_as_nan():
    (joined,) = join_segments([record(columns={"Z": [np.nan]}), record(name="red", columns={"Z": [np.nan]})])
    assert list(joined.columns) == ["Z"]


def test_velocities_that_differ_are_not_known():
    (joined,) = join_segments([record(), record(name="red", velocity=[6.0])])
    assert np.isnan(joined.velocity).all()


def test_repeated_observations_stay_apart():
    spectra = [record(), record(), record()]
    assert join_segments(spectra) == spectra
    assert join_segments([]) == []


def test_contradictions_are_told():
    with pytest.raises(ValueError, match="segment 'blue' of the combined spectrum of a is in several files"):
        join_segments([record(), record(name="red"), record()])
    with pytest.raises(ValueError, match="the segments of the combined spectrum of a differ in medium: "):
        join_segments([record(), record(name="red", medium="vacuum")])
