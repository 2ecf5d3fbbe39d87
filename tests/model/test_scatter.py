"""The model class with correlated scatter."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.scatter.selection import default_candidates
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.train import TrainingWarning

RANK = 2
FULL, HEAVY = tc.scatter.Full(), tc.scatter.Full(heavy_tails=True)


@pytest.fixture(scope="module")
def stars():
    """Labels, flux and ivar of 300 training and 200 other stars, with two latent factors."""
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.uniform(4000, 6000, 500), rng.uniform(1, 4, 500)])
    x = (labels - [5000, 2.5]) / [2000, 3]
    theta, factors = rng.normal(0, 0.05, (30, 6)), rng.normal(0, 0.012, (30, RANK))
    theta[:, 0] = 1
    design = np.column_stack([np.ones(500), x, x[:, :1] ** 2, x[:, :1] * x[:, 1:], x[:, 1:] ** 2])
    flux = design @ theta.T + rng.normal(size=(500, RANK)) @ factors.T + 0.005 * rng.normal(size=(500, 30))
    return labels, flux, np.full(flux.shape, 1 / 0.004**2)


@pytest.fixture(scope="module")
def model(stars):
    labels, flux, ivar = stars
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 2)
    model = tc.CannonModel(labels[:300], flux[:300], ivar[:300], vectorizer, scatter=tc.scatter.LowRank(RANK, True))
    _, _, metadata = model.train()
    assert {record["status"] for record in metadata} == {PixelStatus.CONVERGED}
    assert max(record["duality_gap"] for record in metadata) < 1
    return model


def test_labels_are_better_and_errors_cover(model, stars):
    labels, flux, ivar = (array[300:] for array in stars)
    assert model.factors.shape == (30, RANK)
    correlated = model.fit_labels(flux, ivar)
    plain = tc.CannonModel(
        model.training_set_labels, model.training_set_flux, model.training_set_ivar, model.vectorizer
    )
    plain.train()
    assert plain.factors is None
    assert plain.nu is None
    independent = plain.fit_labels(flux, ivar)
    pulls = tc.validate.pulls(correlated.labels, labels, correlated.covariance)
    assert_allclose(pulls.std(axis=0), 1, atol=0.2)
    naive = tc.validate.pulls(independent.labels, labels, independent.covariance)
    worst = int(np.argmax(naive.std(axis=0)))
    assert naive.std(axis=0)[worst] > 1.4
    correlated_error, independent_error = ((fit.labels - labels).std(axis=0) for fit in (correlated, independent))
    assert correlated_error[worst] < 0.9 * independent_error[worst]


def test_file_keeps_the_factors(model, stars, tmp_path):
    _, flux, ivar = stars
    model.write(tmp_path / "a.model")
    back = tc.CannonModel.read(tmp_path / "a.model")
    assert back.scatter == model.scatter
    assert back.nu == model.nu
    assert_array_equal(back.factors, model.factors)
    assert_array_equal(back.test(flux[:5], ivar[:5])[1], model.test(flux[:5], ivar[:5])[1])


def test_streams_know_the_factors(model, stars):
    _, flux, ivar = stars
    (part,) = model.fit_label_stream([(flux[:7], ivar[:7])])
    assert_allclose(part.labels, model.fit_labels(flux[:7], ivar[:7]).labels, rtol=1e-12)


def test_independent_again_and_reset(stars):
    labels, flux, ivar = stars
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 1)
    model = tc.CannonModel(labels, flux, ivar, vectorizer)
    theta, s2, _ = model.train()
    model.scatter = tc.scatter.LowRank(1)
    _, less, _ = model.train()
    assert model.factors.shape == (30, 1)
    assert (less < s2).all()
    model.scatter = None
    again, same, _ = model.train()
    assert model.factors is None
    assert_allclose(again, theta, atol=1e-7)
    assert_allclose(same, s2, rtol=1e-6)
    model.reset()
    assert not model.is_trained


def test_held_out_likelihood_finds_the_rank(stars, model):
    ranks = [tc.scatter.LowRank(rank) for rank in (1, 2, 4)]
    path = model.scatter_path(ranks)
    table = path.table
    assert path.candidates == (None, *ranks)
    assert list(table["scatter"][:2]) == ["independent", str(ranks[0])]
    assert path.best == tc.scatter.LowRank(RANK)
    assert table["gain"][2] > 10 * table["gain_error"][2] > 0
    assert np.isfinite(path.log_likelihood).sum() == 4 * (tc.validate.folds(300) == 0).sum()
    # Pure noise: no factors do better than none.
    labels, flux, ivar = (array[:100] for array in stars)
    noise = 1 + np.random.default_rng(1).normal(size=flux.shape) / np.sqrt(ivar)
    alone = tc.CannonModel(labels, noise, ivar, tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 1))
    path = alone.scatter_path([tc.scatter.LowRank(3), tc.scatter.Full()])
    assert path.best is None
    assert path.valid.all()
    with pytest.raises(ValueError, match="there is no fold 7"):
        alone.scatter_path([tc.scatter.LowRank(1)], held_out=[7])


def test_auto_takes_the_best_family(stars):
    labels, flux, ivar = (array[:300] for array in stars)
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 2)
    model = tc.CannonModel(labels, flux, ivar, vectorizer, scatter="auto")
    assert model.scatter == "auto"
    path = model.scatter_path()
    assert path.candidates == (
        None,
        *map(tc.scatter.LowRank, (2, 5, 10, 20)),
        FULL,
        HEAVY,
        replace(HEAVY, label_scale=True),
    )
    model.train()
    assert model.scatter == path.best == tc.scatter.LowRank(RANK)
    assert model.factors.shape == (30, RANK)
    # Where the best tails end at their bound, the noise is wrong, and the next best candidate is taken.
    wrong = tc.CannonModel(labels, flux, 1e-6 * ivar, vectorizer)
    path = wrong.scatter_path([tc.scatter.LowRank(1, heavy_tails=True)])
    assert not path.valid[1]
    assert path.best is None


def test_full_covariance(stars, tmp_path):
    labels, flux, ivar = stars
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 2)
    model = tc.CannonModel(labels[:300], flux[:300], ivar[:300], vectorizer, scatter=HEAVY)
    _, s2, metadata = model.train()
    assert {record["status"] for record in metadata} == {PixelStatus.CONVERGED}
    assert (s2 > 0).all()
    fit = model.fit_labels(flux[300:], ivar[300:])
    pulls = tc.validate.pulls(fit.labels, labels[300:], fit.covariance)
    assert_allclose(pulls.std(axis=0), 1, atol=0.2)
    model.write(tmp_path / "a.model")
    back = tc.CannonModel.read(tmp_path / "a.model")
    assert back.scatter == HEAVY
    assert_array_equal(back.fit_labels(flux[300:], ivar[300:]).covariance, fit.covariance)
    (part,) = back.fit_label_stream([(flux[300:307], ivar[300:307])])
    assert_allclose(part.labels, fit.labels[:7], rtol=1e-12)
    # Latent coordinates have unit variance, and are known as well where some pixels are missing.
    z = model.latent_factors(flux[:300], ivar[:300], labels[:300])
    assert_allclose(z[:, :RANK].std(axis=0), 1, atol=0.2)
    fewer = np.where(np.arange(30) % 5 == 0, 0.0, ivar[:10])
    assert_allclose(model.latent_factors(flux[:10], fewer, labels[:10])[:, :RANK], z[:10, :RANK], atol=0.5)
    # Back to low rank: its training does not start from directions of the full covariance.
    model.scatter = tc.scatter.LowRank(RANK)
    model.train()
    assert model.factors.shape == (30, RANK)


def test_bad_input(stars):
    labels, flux, ivar = stars
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 1)
    with pytest.raises(TypeError, match=r'None, "auto", scatter.LowRank, Full or Given, got 5'):
        tc.CannonModel(labels, flux, ivar, vectorizer, scatter=5)
    for rank in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="rank must be a positive integer"):
            tc.scatter.LowRank(rank)
    with pytest.raises(ValueError, match="tolerance must be positive"):
        tc.scatter.LowRank(1, tolerance=0)
    model = tc.CannonModel(labels, flux, ivar, vectorizer, scatter=tc.scatter.LowRank(30))
    with pytest.raises(ValueError, match="from 1 to 29, as there are 500 stars and 30 pixels"):
        model.train()
    assert not model.is_trained
    with pytest.raises(ValueError, match="dof_correction is for independent scatter"):
        model.train(dof_correction=True)


def test_factor_of_one_bad_star_is_named(stars):
    labels, flux, ivar = (array[:200] for array in stars)
    flux = flux.copy()
    flux[7] += 0.5 * np.random.default_rng(0).normal(size=30)
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 2)
    model = tc.CannonModel(labels, flux, ivar, vectorizer, scatter=tc.scatter.LowRank(RANK + 1))
    with pytest.warns(TrainingWarning, match="latent factors come from one star each: factor 0 by star 7"):
        model.train()
    heavy = tc.CannonModel(labels, flux, ivar, vectorizer, scatter=tc.scatter.Full(heavy_tails=True))
    heavy.train()
    assert heavy.fit_labels(flux, ivar).scale[7] > 50


def test_noise_that_is_far_too_large_is_no_heavy_tail(stars):
    labels, flux, ivar = stars
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 2)
    model = tc.CannonModel(labels[:100], flux[:100], 1e-6 * ivar[:100], vectorizer, scatter=tc.scatter.LowRank(1, True))
    with pytest.warns(TrainingWarning, match="degrees of freedom ended at their lower bound"):
        model.train()
    assert model.is_trained


@pytest.mark.parametrize("scatter", [FULL, tc.scatter.Given(1e-4 * np.eye(30)), tc.scatter.LowRank(1)])
def test_no_information_is_said_in_words(stars, scatter):
    labels, flux, ivar = (array[:60] for array in stars)
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 2)
    none, few, lone = np.zeros_like(ivar), np.zeros_like(ivar), np.zeros_like(ivar)
    few[:2] = ivar[:2]
    lone[:, 3] = ivar[:, 3]
    for weight, found in ((none, "0 have one: 30 have no star"), (few, "0 have one: 0"), (lone, "1 have one: 29")):
        model = tc.CannonModel(labels, flux, weight, vectorizer, scatter=scatter)
        with pytest.raises(ValueError, match=f"at least 2 pixels with a solution, of 30 pixels {found}"):
            model.train()
        assert not model.is_trained
    # A choice among all that is possible is then independent scatter.
    model = tc.CannonModel(labels, flux, lone, vectorizer, scatter="auto")
    model.train()
    assert model.correlation is None or not model.correlation.is_correlated


def test_reduced_chi_squared_is_about_one(stars):
    labels, flux, ivar = stars
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 2)
    for scatter in (tc.scatter.LowRank(RANK), tc.scatter.LowRank(RANK, heavy_tails=True), FULL, HEAVY):
        model = tc.CannonModel(labels[:300], flux[:300], ivar[:300], vectorizer, scatter=scatter)
        model.train()
        fit = model.fit_labels(flux[300:], ivar[300:])
        # 300 stars determine 30 pixels' scatter to a few percent; chi^2 of 28 numbers scatters by 27 %.
        assert_allclose(np.median(fit.reduced_chi_squared), 1, atol=0.12)


def test_auto_is_judged_by_labels(stars):
    """Factors leave the noise white; where it is correlated over few pixels, labels tell and likelihoods need not."""
    rng = np.random.default_rng(5)
    labels, _, ivar = stars
    x = (labels - [5000, 2.5]) / [2000, 3]
    theta, root = rng.normal(0, 0.05, (30, 2)), rng.normal(0, 0.01, (30, 12))
    flux = 1 + x @ theta.T + rng.normal(size=(500, 12)) @ root.T + 1e-5 * rng.normal(size=(500, 30))
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 1)
    model = tc.CannonModel(labels[:300], flux[:300], ivar[:300], vectorizer, scatter="auto")
    path = model.scatter_path([tc.scatter.LowRank(2), FULL])
    assert path.best == FULL
    assert path.label_score.shape == path.log_likelihood.shape
    assert list(path.table["label_score"]) == list(np.nanmedian(path.label_score, axis=1))
    model.scatter = path.best
    model.train()
    fit = model.fit_labels(flux[300:], ivar[300:])
    pulls = tc.validate.pulls(fit.labels, labels[300:], fit.covariance)
    assert_allclose(tc.validate.robust_scatter(pulls), 1, atol=0.2)


def test_auto_tries_the_full_covariance_of_many_pixels_and_beside_dead_ones(stars):
    labels, flux, ivar = (array[:100] for array in stars)
    problem = tc.CannonModel(labels, flux, ivar, tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 1))._problem()
    many = PixelProblem.unbounded(problem.terms, np.tile(flux, (1, 100)), np.tile(ivar, (1, 100)))
    assert FULL in default_candidates(many)
    dead = np.where(np.arange(30) == 4, 0.0, ivar)
    assert FULL in default_candidates(PixelProblem.unbounded(problem.terms, flux, dead))
    dead[3, 7] = 0.0
    assert FULL not in default_candidates(PixelProblem.unbounded(problem.terms, flux, dead))
