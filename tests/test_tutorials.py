"""The published tutorials of the original package with only the import changed."""

import numpy as np
import pytest
from astropy.table import Table
from numpy.testing import assert_array_equal

import bayes_cannon as tc

CONTINUUM = (np.arange(300) % 4) == 0


@pytest.fixture
def survey(training):
    """Labels as a table, and the training set; all but twelve pixels are lost, which spares SciPy the others."""
    labels = Table(dict(zip(("TEFF", "LOGG", "FE_H"), training.labels.T, strict=True)), units={"TEFF": "K"})
    ivar = np.where(np.arange(60) % 5 == 2, training.ivar, 0.0)
    return labels, training.flux, ivar, training.dispersion


def objective(metadata):
    return np.array([record["fopt"] for record in metadata])


def agree(metadata, certified, tolerance):
    ours, theirs = objective(certified), objective(metadata)
    known = np.isfinite(ours)
    assert known.sum() == 12
    excess = (theirs[known] - ours[known]) / np.abs(ours[known])
    assert np.abs(excess).max() < tolerance
    assert excess.min() > -1e-9


def test_getting_started(survey, tmp_path, monkeypatch):
    labels, flux, ivar, wavelength = survey
    monkeypatch.chdir(tmp_path)

    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG", "FE_H"), 2)
    model = tc.CannonModel(labels, flux, ivar, vectorizer, dispersion=wavelength)
    theta, s2, metadata = model.train()
    assert theta.shape == (60, 10)
    assert s2.shape == (60,)
    assert len(metadata) == 60

    model.regularization = 1000.0
    model.censors["FE_H"] = tc.censoring.create_mask(model.dispersion, [(None, 16700), (16750, None)])
    theta, s2, metadata = model.train()
    kept = (wavelength > 16700) & (wavelength < 16750)
    assert np.isnan(theta[kept]).sum() < theta[kept].size
    assert np.nansum(np.abs(theta[~kept][:, [3, 6, 8, 9]])) == 0
    assert np.nansum(np.abs(theta[kept][:, [3, 6, 8, 9]])) > 0
    certified = metadata

    theta, s2, metadata = model.train(
        op_method="powell",
        op_kwds=dict(xtol=1e-8, ftol=1e-8, maxiter=100000, maxfun=100000),  # noqa: C408
    )
    agree(metadata, certified, 1e-5)

    labels, cov, metadata = model.test(flux, ivar)
    assert labels.shape == (200, 3)
    assert cov.shape == (200, 3, 3)
    assert len(metadata) == 200
    assert np.isfinite(labels).all()

    written = model
    model.write("my.model")
    model = tc.CannonModel.read("my.model")
    assert_array_equal(model.theta, written.theta)
    assert_array_equal(model.test(flux, ivar)[0], labels)


def test_regularization(survey):
    """No regularization, then Lambda = 10e5 from there, then Powell with strict tolerances from there."""
    labels, flux, ivar, wavelength = survey
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG", "FE_H"), 2)
    model = tc.CannonModel(labels, flux, ivar, vectorizer, dispersion=wavelength)
    plain_theta, _, plain = model.train()

    model.regularization = 10e5
    theta, _, certified = model.train()
    known = np.isfinite(theta[:, 0])
    assert_array_equal(theta[known][:, 1:], 0)
    assert np.abs(plain_theta[known][:, 1:]).min(axis=0).max() > 0
    assert (objective(certified)[known] > objective(plain)[known]).all()

    op_kwds = {"xtol": 1e-8, "ftol": 1e-8, "maxiter": 100000, "maxfun": 100000}
    _, _, powell = model.train(op_method="powell", op_kwds=op_kwds)
    agree(powell, certified, 1e-5)
    _, _, l_bfgs_b = model.train(op_method="l_bfgs_b", op_kwds={"factr": 0.1, "pgtol": 1e-6})
    agree(l_bfgs_b, certified, 1e-6)
    for method, tolerance in (("powell", 1e-5), ("l_bfgs_b", 1e-6)):
        model.reset()
        agree(model.train(op_method=method)[2], certified, tolerance)


def test_continuum_normalization():
    rng = np.random.default_rng(0)
    dispersion = np.linspace(15090, 16971, 300)
    truth = 1000 + 80 * np.cos(2 * np.pi * dispersion / 1400) + 40 * np.sin(2 * np.pi * dispersion / 1400)
    lines = 1 - 0.3 * rng.random((5, 300)) * ~CONTINUUM
    sigma = 2.0
    flux = truth * lines + sigma * rng.normal(size=(5, 300))
    ivar = np.full((5, 300), sigma**-2)
    continuum_pixels = np.flatnonzero(CONTINUUM)

    continuum, metadata = tc.continuum.sines_and_cosines(
        dispersion, flux, ivar, continuum_pixels, L=1400, order=3,
        regions=[[15090, 15822], [15823, 16451], [16452, 16971]]
    )  # fmt: skip
    assert continuum.shape == (5, 300)
    assert len(metadata) == 5
    covered = np.isfinite(continuum) & (continuum != 1)
    assert covered.mean() > 0.98
    assert np.abs(continuum[covered] / np.broadcast_to(truth, (5, 300))[covered] - 1).max() < 0.01

    normalized_flux = flux / continuum
    normalized_ivar = continuum * ivar * continuum
    assert abs(np.median(normalized_flux[:, CONTINUUM]) - 1) < 1e-3
    assert (normalized_ivar > 0).all()


def test_test_step_with_the_names_of_the_original(trained, training):
    """What a script of the original package reads from the test step's records."""
    _, _, metadata = trained.test(training.flux[:8], training.ivar[:8])
    for name in ("chi_sq", "r_chi_sq", "model_flux"):
        assert all(np.isfinite(record[name]).all() for record in metadata)
    flux = trained(training.labels[0])
    assert flux.shape == (60,)
    assert trained.is_trained
    assert str(trained).startswith("<CannonModel of 3 labels with a training set of 200 stars")
