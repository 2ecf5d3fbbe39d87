"""Scatter of labels that spectra do not explain, learned from training stars that are held out."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.model.data import NotTrainedError
from bayes_cannon.solvers.label_scatter import label_scatter

NAMES = ("TEFF", "LOGG")
TRUTH = np.array([[40.0**2, 0.5 * 40 * 0.08], [0.5 * 40 * 0.08, 0.08**2]])


def test_covariance_is_found_beside_known_ones():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4000, 2, 2)) * [[[30.0], [0.05]]]
    known = root @ root.swapaxes(1, 2)
    difference = np.array([rng.multivariate_normal(np.zeros(2), TRUTH + one) for one in known])
    difference[3, 1], known[5, 0, 0] = np.nan, np.nan
    found = label_scatter(difference, known)
    unit = np.sqrt(np.diag(TRUTH))
    assert_allclose(found / np.outer(unit, unit), TRUTH / np.outer(unit, unit), atol=0.08)
    # Without any such scatter next to none is found.
    alone = np.array([rng.multivariate_normal(np.zeros(2), one) for one in known[6:]])
    assert (np.diag(label_scatter(alone, known[6:])) < 0.05 * np.diag(TRUTH)).all()
    with pytest.raises(ValueError, match="has 3 elements, but only 2 held-out stars"):
        label_scatter(alone[:2], known[6:8])


@pytest.fixture(scope="module")
def stars():
    """Stars whose reference labels err."""
    rng = np.random.default_rng(1)
    labels = np.column_stack([rng.uniform(4000, 6000, 800), rng.uniform(1, 4, 800)])
    x = (labels - [5000, 2.5]) / [2000, 3]
    theta = rng.normal(0, 0.05, (30, 3))
    flux = 1 + x @ theta[:, 1:].T + 0.003 * rng.normal(size=(800, 30))
    return labels + rng.multivariate_normal(np.zeros(2), TRUTH, 800), flux, np.full(flux.shape, 1 / 0.003**2)


def test_errors_of_other_stars_cover(stars, tmp_path):
    labels, flux, ivar = stars
    vectorizer = tc.vectorizer.PolynomialVectorizer(NAMES, 1)
    bounds = {"TEFF": (-0.3, 0.3)}
    model = tc.RestrictedCannonModel(labels[:400], flux[:400], ivar[:400], vectorizer, theta_bounds=bounds)
    with pytest.raises(NotTrainedError, match="call train"):
        model.learn_label_scatter()
    model.train()
    assert model.label_scatter is None
    before = model.fit_labels(flux[400:], ivar[400:])
    seen = []
    found = model.learn_label_scatter(n_folds=4, progress=seen.append)
    assert seen == [1] * 4
    assert_array_equal(found, model.label_scatter)
    unit = np.sqrt(np.diag(TRUTH))
    assert_allclose(found / np.outer(unit, unit), TRUTH / np.outer(unit, unit), atol=0.25)
    after = model.fit_labels(flux[400:], ivar[400:])
    assert_array_equal(after.labels, before.labels)
    assert_allclose(after.covariance, before.covariance + found)
    pulls = tc.validate.pulls(after.labels, labels[400:], after.covariance)
    assert_allclose(pulls.std(axis=0), 1, atol=0.1)
    scores = [tc.validate.log_scores(fit.labels, labels[400:], fit.covariance).mean() for fit in (before, after)]
    assert scores[1] > scores[0]

    model.write(tmp_path / "a.model")
    back = tc.RestrictedCannonModel.read(tmp_path / "a.model")
    assert back.theta_bounds == bounds
    assert_array_equal(back.label_scatter, found)
    (part,) = back.fit_label_stream([(flux[400:405], ivar[400:405])])
    assert_allclose(part.covariance, after.covariance[:5])
    assert_allclose(back.test(flux[400:405], ivar[400:405])[1], after.covariance[:5])
    with pytest.raises(TypeError, match="holds no training spectra"):
        back.learn_label_scatter()
    model.train()
    assert model.label_scatter is None
