"""Three figures look as they did. The pictures in ``baseline/`` are small, and have no text, because fonts differ.

Where a change is meant, look at the new picture, whose place the failure names, and copy it over the old one.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.testing.compare import compare_images
from matplotlib.testing.decorators import remove_ticks_and_titles

import bayes_cannon as tc

BASELINE = Path(__file__).parent / "baseline"
TOLERANCE = 15.0
"""Root mean square difference of pixel values from 0 to 255: antialiasing differs between versions of Matplotlib."""
NAMES = ("TEFF", "LOGG", "FE_H")


@pytest.fixture(scope="module")
def vectorizer():
    return tc.vectorizer.PolynomialVectorizer(NAMES, 1)


def one_to_one(vectorizer):
    rng = np.random.default_rng(0)
    labels = rng.normal([5000, 2.5, 0], [300, 0.5, 0.2], (60, 3))
    errors = np.array([60.0, 0.1, 0.05])
    inferred = labels + errors * rng.normal(size=labels.shape)
    inferred[0, 0] += 2000
    model = tc.CannonModel(labels, None, None, vectorizer)
    return tc.plot.one_to_one(model, inferred, np.broadcast_to(np.diag(errors**2), (60, 3, 3)))


def theta(vectorizer):
    wavelength = np.concatenate([np.linspace(5000, 5090, 40), np.linspace(5150, 5200, 20)])
    curves = np.sin(wavelength[:, None] / [7.0, 11.0, 17.0, 29.0])
    return tc.plot.theta({"plain": curves, "regularized": np.where(np.abs(curves) > 0.7, curves, 0.0)},
                         dispersion=wavelength)  # fmt: skip


def scatter(vectorizer):
    wavelength = np.linspace(5000, 5200, 60)
    s2 = 1e-4 * (1.5 + np.cos(wavelength / 9))
    s2[20] = np.inf
    return tc.plot.scatter(s2, dispersion=wavelength)


@pytest.mark.parametrize("draw", [one_to_one, theta, scatter])
def test_figure_looks_as_before(draw, vectorizer, tmp_path):
    with mpl.rc_context(mpl.rcParamsDefault):
        figure = draw(vectorizer)
        remove_ticks_and_titles(figure)
        for text in figure.findobj(mpl.text.Text):
            text.set_visible(False)
        path = tmp_path / f"{draw.__name__}.png"
        figure.savefig(path, dpi=50, metadata={"Software": None})
    expected = BASELINE / path.name
    assert expected.stat().st_size < 30_000
    difference = compare_images(expected, path, TOLERANCE)
    assert difference is None, difference
