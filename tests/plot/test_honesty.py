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
    assert first.get_xlabel() == "Pull of Teff"


def test_coverage_is_the_share_of_each_cell():
    rng = np.random.default_rng(0)
    quarter = np.repeat(np.indices((2, 2)).reshape(2, 4).T, 10, axis=0)
    position = quarter + 0.9 * rng.random((40, 2))
    pull = np.full((40, 1), 0.5)
    pull[:8] = 3.0  # Of the ten of the first cell.
    figure = tc.plot.coverage(pull, position, ["FE_H"], ["TEFF", "LOGG"], level=0.68)
    axes = figure.axes[0]
    texts = axes.texts
    assert sorted(text.get_text() for text in texts) == sorted(["20•", "100", "100", "100"])
    (low,) = (text.get_position() for text in texts if text.get_text() == "20•")
    assert max(low) < 1
    shares = dict(zip([text.get_text() for text in texts], axes.collections[0].get_array(), strict=True))
    assert shares == {"20•": 0.2, "100": 1.0}
    found = tc.validate.local_coverage(position, np.abs(pull) < 1, 0.68, size=8)
    boxes = [path.get_extents().get_points() for path in axes.collections[0].get_paths()]
    np.testing.assert_allclose(boxes, np.stack([found.low, found.high], axis=1))
    # As in a Kiel diagram.
    assert axes.get_xlim()[0] > axes.get_xlim()[1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_coverage_of_too_few_stars_is_blank():
    figure = tc.plot.coverage(np.zeros((7, 1)), np.zeros((7, 2)), ["FE_H"], ["TEFF", "LOGG"])
    assert not figure.axes[0].texts
    figure.canvas.draw()


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
    assert "Pull of Teff" in first
    assert first.startswith("<svg")
