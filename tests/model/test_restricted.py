"""`RestrictedCannonModel`: bounds hold exactly in every solver, and stay when the model is saved."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.restricted import RestrictedCannonModel
from bayes_cannon.vectorizer import PolynomialVectorizer

BOUNDS = {"FE_H": (None, 0), "TEFF^2": (-0.01, 0.01), "LOGG": (0.005, None), "TEFF*LOGG": (0, 0)}
QUADRATIC = PolynomialVectorizer(("TEFF", "LOGG", "FE_H"), 2)


def restricted(training, bounds=BOUNDS, live=60, **kwargs):
    ivar = np.where(np.arange(60) < live, training.ivar, 0.0)
    return RestrictedCannonModel(
        training.labels, training.flux, ivar, QUADRATIC, dispersion=training.dispersion, theta_bounds=bounds, **kwargs
    )


def within(theta):
    return {
        "FE_H": theta[:, 3] <= 0,
        "TEFF^2": np.abs(theta[:, 4]) <= 0.01,
        "LOGG": theta[:, 2] >= 0.005,
        "TEFF*LOGG": theta[:, 5] == 0,
    }


@pytest.mark.parametrize("regularization", [0.0, 100.0])
def test_bounds_hold_exactly_and_the_optimum_is_certified(training, trained, regularization):
    model = restricted(training, regularization=regularization)
    theta, _, metadata = model.train()
    free = within(trained.theta)
    for term, holds in within(theta).items():
        assert holds.all(), term
        assert not free[term].all(), term
    assert (theta[:, 3] == 0).any()
    assert (theta[:, 4] == 0.01).any()
    assert (theta[:, 2] == 0.005).any()
    assert max(record["duality_gap"] for record in metadata) < 1e-9


@pytest.mark.parametrize(("method", "tolerance"), [("l_bfgs_b", 1e-6), ("powell", 1e-5)])
def test_every_solver_finds_the_same_optimum_within_the_bounds(training, method, tolerance):
    certified = restricted(training, regularization=30.0)
    certified.train()
    model = restricted(training, live=6, regularization=30.0)
    theta, _, metadata = model.train(op_method=method)
    for term, holds in within(theta[:6]).items():
        assert holds.all(), term
    best = certified.certificates["objective"][:6]
    excess = (np.array([record["fopt"] for record in metadata[:6]]) - best) / np.abs(best)
    assert np.abs(excess).max() < tolerance
    assert excess.min() > -1e-9


def test_without_bounds_it_is_the_plain_model(training, trained):
    for bounds in (None, {}, {"FE_H": (None, None), "TEFF": (-1e3, 1e3)}):
        theta, s2, _ = restricted(training, bounds).train()
        assert_allclose(theta, trained.theta, atol=1e-8)
        assert_allclose(s2, trained.s2, rtol=1e-6, atol=1e-13)


def test_a_censored_term_stays_zero_whatever_its_bounds(training):
    model = restricted(training, {"LOGG": (0.005, None)}, censors={"LOGG": np.arange(60) < 20})
    theta, _, _ = model.train()
    assert_array_equal(theta[:20, 2], 0)
    assert (theta[20:, 2] >= 0.005).all()


def test_new_bounds_hold_when_it_is_trained_again(training):
    model = restricted(training)
    model.train()
    model.theta_bounds = {"FE_H": (0, None)}
    theta, _, _ = model.train()
    assert (theta[:, 3] >= 0).all()
    assert_allclose(theta, restricted(training, {"FE_H": (0, None)}).train()[0], atol=1e-8)


def test_bounds_are_kept_on_saving(training, tmp_path):
    model = restricted(training)
    model.train()
    model.write(tmp_path / "my.model", include_training_set_spectra=True)
    back = tc.CannonModel.read(tmp_path / "my.model")
    assert type(back) is RestrictedCannonModel
    assert back.theta_bounds == model.theta_bounds == {**BOUNDS, "FE_H": (None, 0.0)}
    assert_array_equal(back.theta, model.theta)
    assert_allclose(back.train()[0], model.theta, atol=1e-9)
    assert str(back).startswith("<RestrictedCannonModel of 3 labels")


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"ALPHA": (0, 1)}, "unknown label 'ALPHA'"),
        ({"TEFF^3": (0, 1)}, r"unknown term 'TEFF\^3'; the terms are 1, TEFF"),
        ({"TEFF": (0,)}, r"bounds of 'TEFF' must be a pair \(lower, upper\), got \(0,\)"),
        ({"TEFF": (1, 0)}, r"bounds of 'TEFF' must be in the order \(lower, upper\), got \(1, 0\)"),
        ({"TEFF": (np.nan, 0)}, "bounds of 'TEFF' must be numbers or None, got"),
    ],
)
def test_bad_bounds(training, bounds, message):
    with pytest.raises(ValueError, match=message):
        restricted(training, bounds)


def test_bounds_must_map_terms_to_pairs(training):
    with pytest.raises(TypeError, match="theta_bounds must map terms to pairs, got list"):
        restricted(training, [("TEFF", (0, 1))])
