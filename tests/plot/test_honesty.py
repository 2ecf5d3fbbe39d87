"""Pulls, coverage and sources of errors are drawn with the numbers that they are."""

import numpy as np
import pytest

import bayes_cannon as tc
from bayes_cannon.plot._matplotlib import svg

pytest.importorskip("matplotlib")

NAMES = ("TEFF", "FE_H")


def test_pulls_are_counted_and_far_ones_are_in_the_last_bins():
    pull = np.array([[0.1, 0.1], [0.1, 70.0], [-70.0, np.nan]])
    figure = tc.plot.pulls(pull, NAMES)
    first, second = figure.axes
    counts, edges, _ = first.patches[0].get_data()
    assert counts[(edges[:-1] <= 0.1) & (edges[1:] > 0.1)] == 2
    assert counts[0] == 1
    assert second.patches[0].get_data()[0].sum() == 2
    assert first.get_xlabel() == "pull of Teff"


def test_coverage_is_the_share_of_each_bin():
    rng = np.random.default_rng(0)
    cell = np.repeat(np.indices((5, 5)).reshape(2, 25).T, 10, axis=0)
    position = cell + 0.9 * rng.random((250, 2))
    pull = np.full((250, 1), 0.5)
    pull[:8] = 3.0  # Of the ten of the first bin.
    figure = tc.plot.coverage(pull, position, ["FE_H"], ["TEFF", "LOGG"], level=0.68)
    texts = figure.axes[0].texts
    assert sorted(text.get_text() for text in texts) == sorted(["20•", *["100"] * 24])
    (low,) = (text.get_position() for text in texts if text.get_text() == "20•")
    assert max(low) < 1


def test_sources_add_up():
    errors = {"photon": np.full((5, 2), 3.0), "scatter": np.full((5, 2), 4.0), "scale": np.full((5, 2), -1.0)}
    figure = tc.plot.error_sources(errors, NAMES)
    widths = np.array([bar.get_width() for bar in figure.axes[0].patches]).reshape(3, 2)
    np.testing.assert_allclose(widths[:, 0], 100 * np.array([9, 16, -1]) / 24)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"pull must have shape \(star, 2\)"):
        tc.plot.pulls(np.zeros((3, 3)), NAMES)
    with pytest.raises(ValueError, match="position"):
        tc.plot.coverage(np.zeros((3, 2)), np.zeros((3, 3)), NAMES, NAMES)
    with pytest.raises(ValueError, match="no source"):
        tc.plot.error_sources({}, NAMES)


def test_svg_is_the_same_each_time_and_its_text_is_text():
    first, second = (svg(tc.plot.pulls(np.zeros((3, 2)), NAMES), "a") for _ in range(2))
    assert first == second
    assert "pull of Teff" in first
    assert first.startswith("<svg")
