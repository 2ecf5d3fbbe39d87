"""Full covariance of the scatter: its training against SciPy's densities, its labels against dense fits."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import least_squares
from scipy.stats import multivariate_normal, multivariate_t

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer, monomials
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.labelling.fit import fit_labels
from bayes_cannon.labelling.theta_errors import variances
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.scatter import CommonCovariance, Full, IndependentScatter, covariance_tables
from bayes_cannon.scatter.full_training import train_full
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.train import train

NAMES = ("TEFF", "LOGG")
VECTORIZER = PolynomialVectorizer(NAMES, 2)
N_PIXELS, N_COEFFICIENTS, NU = 40, 12, 6.0


class Case:
    """Spectra sampled at 40 pixels from 12 coefficients, with heavy tails; white noise is quoted, but there is none."""

    def __init__(self, n_stars: int, seed: int = 0):
        fixed, rng = np.random.default_rng(1), np.random.default_rng(seed)
        self.labels = np.column_stack([rng.uniform(4000, 6000, n_stars), rng.uniform(1, 4, n_stars)])
        corners = np.array([[4000.0, 1.0], [6000.0, 4.0], [5000.0, 2.5]])
        self.scaling = LabelScaling.from_labels(corners, NAMES)
        self.x = self.scaling.scaled(self.labels)
        self.design = monomials(self.x, VECTORIZER.exponents)
        sampled = fixed.normal(size=(N_PIXELS, N_COEFFICIENTS))
        self.theta = sampled @ fixed.normal(0, 0.02, (N_COEFFICIENTS, VECTORIZER.n_terms))
        self.theta[:, 0] = 1.0
        root = sampled @ fixed.normal(0, 0.003, (N_COEFFICIENTS, N_COEFFICIENTS))
        self.covariance = root @ root.T
        tau = rng.gamma(NU / 2, 2 / NU, n_stars)
        scatter = rng.normal(size=(n_stars, N_COEFFICIENTS)) @ root.T / np.sqrt(tau)[:, None]
        self.flux = self.design @ self.theta.T + scatter + 1e-4 * rng.normal(size=scatter.shape)
        self.ivar = np.full(self.flux.shape, 1 / 0.002**2)
        self.problem = PixelProblem.unbounded(Terms(VECTORIZER.exponents, self.x), self.flux, self.ivar)

    def trained(self, scatter: Full, problem: PixelProblem | None = None):
        problem = self.problem if problem is None else problem
        solved = (problem.ivar > 0).any(axis=0)
        start = np.linalg.lstsq(problem.design, problem.flux, rcond=None)[0].T
        return train_full(
            problem, np.where(solved[:, None], start, np.nan), np.where(solved, 0.0, np.inf), scatter
        )  # fmt: skip

    def fitted(self, fit, other: "Case", ivar: np.ndarray | None = None):
        """Labels of the other case's stars."""
        model = TrainedModel(fit.theta, fit.s2, fit.learned, self.problem.terms, self.scaling)
        return fit_labels(model, other.flux, other.ivar if ivar is None else ivar)


@pytest.fixture(scope="module")
def case():
    return Case(1000)


@pytest.fixture(scope="module")
def others():
    return Case(3000, seed=5)


@pytest.fixture(scope="module")
def heavy(case):
    return case.trained(Full(heavy_tails=True))


def test_normal_covariance_is_that_of_the_residuals(case):
    scatter = Full(shrinkage=0.0, share=0.0)
    fit = case.trained(scatter)
    theta = np.linalg.lstsq(case.design, case.flux, rcond=None)[0].T
    assert_allclose(fit.theta, theta, atol=1e-10)
    residual = case.flux - case.design @ theta.T
    expected = residual.T @ residual / (1000 - VECTORIZER.n_terms)
    assert_allclose(fit.learned.covariance, fit.scale * expected, atol=1e-12)
    # Tails are heavy: of most stars labels are closer than a normal distribution of this covariance says.
    assert 0.75 < fit.scale < 1
    assert fit.learned.nu == np.inf
    assert (fit.gradient < 1e-9).all()


def test_densities_are_those_of_scipy(case, heavy):
    sample = np.arange(20)
    every = case.trained(Full(shrinkage=0.1, heavy_tails=True, share=0.0))
    problem = case.problem.of_stars(sample)
    mean = case.design[sample] @ every.theta.T
    ours = every.learned.log_likelihood(problem, every)
    theirs = [
        multivariate_t(shape=every.learned.covariance, df=every.learned.nu).logpdf(row)
        for row in case.flux[sample] - mean
    ]
    assert every.learned.rank == N_PIXELS
    assert_allclose(ours, theirs, rtol=1e-9)
    # With fewer leading directions: Student-t along them, normal with the quoted noise across them, as labels have it.
    ours = heavy.learned.log_likelihood(problem, heavy)
    noise, factors = heavy.learned.noise, heavy.learned.factors
    basis, lengths, _ = np.linalg.svd(factors / noise[:, None])
    scaled = (case.flux[sample] - case.design[sample] @ heavy.theta.T) / noise @ basis
    rank = heavy.learned.rank
    along = multivariate_t(shape=np.diag(lengths**2), df=heavy.learned.nu).logpdf(scaled[:, :rank])
    across = multivariate_normal(cov=np.eye(N_PIXELS - rank)).logpdf(scaled[:, rank:])
    assert_allclose(ours, along + across - np.log(noise).sum(), rtol=1e-9)


def test_directions_tails_and_covariance_are_found(case, heavy):
    assert heavy.converged
    assert heavy.shrinkage == 0
    assert heavy.learned.rank == N_COEFFICIENTS
    assert 4 < heavy.learned.nu < 9
    assert (heavy.gradient < 0.01).all()
    found = heavy.learned.factors @ heavy.learned.factors.T / heavy.scale
    assert np.linalg.norm(found - case.covariance) < 0.15 * np.linalg.norm(case.covariance)
    basis = np.linalg.svd(case.covariance)[0][:, :N_COEFFICIENTS]
    across = heavy.learned.factors - basis @ (basis.T @ heavy.learned.factors)
    assert np.linalg.norm(across) < 0.02 * np.linalg.norm(heavy.learned.factors)
    # Canonical: orthogonal in units of the noise, the strongest first.
    scaled = heavy.learned.factors / heavy.learned.noise[:, None]
    gram = scaled.T @ scaled
    assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9 * gram.max())
    assert (np.diff(np.diag(gram)) < 0).all()


def test_labels_are_better_and_their_errors_cover(case, heavy, others):
    fit = case.fitted(heavy, others)
    start = train(case.problem)
    naive = case.fitted(replace(heavy, theta=start.theta, s2=start.s2, learned=IndependentScatter()), others)
    sigma = np.sqrt(np.einsum("nkk->nk", fit.covariance))
    pulls = (fit.labels - others.labels) / sigma
    coverage = [(np.abs(pulls) < width).mean(axis=0) for width in (1.0, 2.0)]
    # Student-t with nu + q - 2 = 16 degrees of freedom, of unit variance: 69.9 and 95.2 percent.
    assert_allclose(coverage, [[0.699] * 2, [0.952] * 2], atol=0.03)
    error, naive_error = (np.abs(labels - others.labels).mean(axis=0) for labels in (fit.labels, naive.labels))
    assert (error < 0.6 * naive_error).all()
    assert (fit.scale > 0).all()
    assert fit.scale.max() > 3


def test_equals_a_dense_fit_with_missing_pixels(case, heavy, others):
    rng = np.random.default_rng(3)
    ivar = np.where(rng.random(others.ivar.shape) < 0.15, 0.0, others.ivar)
    ivar[0] = others.ivar[0]
    flux = np.where(ivar > 0, others.flux, np.nan)
    some = replace_flux(others, flux)
    fit = case.fitted(heavy, some, ivar)
    whole, unit = heavy.learned.covariance, case.scaling.factor * case.scaling.scale
    for star in range(6):
        used = ivar[star] > 0
        root = np.linalg.cholesky(whole[np.ix_(used, used)])

        def residual(x, root=root, theta=heavy.theta[used], flux=flux[star, used]):
            return np.linalg.solve(root, flux - theta @ VECTORIZER.get_label_vector(x)[:, 0])

        best = least_squares(residual, others.x[star], "3-point", xtol=1e-15, ftol=1e-15, gtol=1e-15)
        scale = (heavy.learned.nu + 2 * best.cost) / (heavy.learned.nu + heavy.learned.typical_square(used.sum()) - 4)
        covariance = scale * np.linalg.inv(best.jac.T @ best.jac) * np.outer(unit, unit)
        error = np.sqrt(np.diag(covariance))
        assert_allclose(fit.chi_squared[star], 2 * best.cost, rtol=1e-8)
        assert_allclose(fit.labels[star] / error, case.scaling.unscaled(best.x) / error, rtol=0, atol=1e-4)
        assert_allclose(fit.covariance[star] / np.outer(error, error), covariance / np.outer(error, error), atol=1e-5)
    pulls = (fit.labels - others.labels) / np.sqrt(np.einsum("nkk->nk", fit.covariance))
    assert_allclose((np.abs(pulls) < 1).mean(axis=0), 0.699, atol=0.05)


def test_pixels_taken_out_of_complete_spectra_are_as_good_as_a_factor_of_the_others(case, heavy, others, monkeypatch):
    rng = np.random.default_rng(4)
    ivar = np.where(rng.random(others.ivar.shape) < rng.uniform(0, 0.3, (len(others.ivar), 1)), 0.0, others.ivar)
    ivar = np.where(rng.random(ivar.shape) < 0.05, 1e-4 * ivar, ivar)
    ivar[0] = 0
    some = replace_flux(others, np.where(ivar > 0, others.flux, np.nan))
    found = case.fitted(heavy, some, ivar)
    monkeypatch.setattr(covariance_tables, "MANY", np.inf)
    by_factors = case.fitted(heavy, some, ivar)
    error = np.sqrt(np.einsum("nkk->nk", by_factors.covariance))
    assert np.isfinite(error[1:]).all()
    assert_allclose(found.labels / error, by_factors.labels / error, rtol=0, atol=1e-7)
    assert_allclose(found.covariance, by_factors.covariance, rtol=1e-7)
    assert_allclose(found.chi_squared, by_factors.chi_squared, rtol=1e-9)


def replace_flux(case: Case, flux: np.ndarray) -> Case:
    other = object.__new__(Case)
    other.__dict__ = {**case.__dict__, "flux": flux}
    return other


def test_bad_stars_do_not_set_the_covariance(case, heavy):
    rng = np.random.default_rng(4)
    flux = case.flux.copy()
    flux[:20] += 0.3 * rng.normal(size=(20, 1)) * rng.normal(size=N_PIXELS)
    spoilt = case.trained(Full(shrinkage=0.0, heavy_tails=True), replace(case.problem, flux=flux))
    normal = case.trained(Full(shrinkage=0.0), replace(case.problem, flux=flux))
    assert spoilt.weight[:20].max() < 0.1 < np.median(spoilt.weight[20:])
    trace = np.trace(heavy.learned.covariance)
    assert np.trace(spoilt.learned.covariance) < 1.5 * trace
    assert np.trace(normal.learned.covariance) > 2 * trace


def test_few_stars_are_shrunk(case):
    few = Case(44, seed=2)
    chosen = few.trained(Full())
    assert chosen.shrinkage > 0
    held = Case(300, seed=8)
    best = chosen.learned.log_likelihood(held.problem, chosen).mean()
    strong = few.trained(Full(shrinkage=0.95))
    assert best > strong.learned.log_likelihood(held.problem, strong).mean()
    with pytest.raises(ValueError, match="shrinkage 0 needs a quarter more stars than pixels"):
        Case(50).trained(Full(shrinkage=0.0))
    with pytest.raises(ValueError, match="needs at least 23 stars with 6 terms, there are 20"):
        Case(20).trained(Full())


def test_penalty_and_censoring_are_kept(case):
    lower, upper = case.problem.lower.copy(), case.problem.upper.copy()
    lower[3, 2] = upper[3, 2] = 0.0
    problem = replace(case.problem, lower=lower, upper=upper, regularization=np.full(N_PIXELS, 1e4))
    fit = case.trained(Full(shrinkage=0.0, heavy_tails=True), problem)
    assert fit.theta[3, 2] == 0
    assert (fit.theta == 0).sum() > 10
    assert (fit.gradient < 0.02).all()


def test_pixels_without_solution_take_no_part(case, heavy, others):
    ivar = case.ivar.copy()
    ivar[:, 7] = 0.0
    fit = case.trained(Full(shrinkage=0.0, heavy_tails=True), replace(case.problem, ivar=ivar))
    assert np.isnan(fit.theta[7]).all()
    assert np.isinf(fit.s2[7])
    assert (fit.learned.factors[7] == 0).all()
    labels = case.fitted(fit, others).labels
    sigma = np.sqrt(np.einsum("nkk->nk", case.fitted(heavy, others).covariance))
    assert np.median(np.abs(labels - case.fitted(heavy, others).labels) / sigma) < 0.3


def test_bad_input(case):
    ivar = case.ivar.copy()
    ivar[5, 9] = 0.0
    with pytest.raises(ValueError, match="1 pixels of 1 stars have no ivar, the first is pixel 9 of star 5"):
        case.trained(Full(), replace(case.problem, ivar=ivar))
    with pytest.raises(ValueError, match=r"no direction of the residuals has 0.05 of the quoted noise"):
        case.trained(Full(shrinkage=0.0), replace(case.problem, ivar=1e-9 * case.ivar))
    for shrinkage in (-0.1, 1.5, np.nan):
        with pytest.raises(ValueError, match="shrinkage must be from 0 to 1"):
            Full(shrinkage)
    with pytest.raises(ValueError, match="share must be finite and not negative"):
        Full(share=np.inf)
    singular = CommonCovariance(np.zeros((N_PIXELS, 1)), noise=np.zeros(N_PIXELS))
    model = TrainedModel(case.theta, np.zeros(N_PIXELS), singular, case.problem.terms, case.scaling)
    with pytest.raises(ValueError, match="not positive definite"):
        fit_labels(model, case.flux, case.ivar)


def test_numbers_with_a_huge_error_carry_no_information(case, others):
    few = case.problem.of_stars(np.arange(120))
    clean = case.trained(Full(), few)
    bad = np.zeros(few.flux.shape, bool)
    bad[5, 3] = bad[7, 3] = bad[7, 20] = bad[9] = True
    ivar = np.where(bad, 1e-10, few.ivar)
    fits = [case.trained(Full(), replace(few, flux=np.where(bad, junk, few.flux), ivar=ivar)) for junk in (50.0, -3.0)]
    # The value does not matter, neither do one of 120 stars and two numbers of another beyond their errors.
    error = np.sqrt(np.diag(clean.learned.covariance) / 120)
    for fit in fits:
        assert_allclose(fit.theta, fits[0].theta, atol=1e-3 * error.min())
        assert_allclose(fit.learned.covariance, fits[0].learned.covariance, rtol=1e-3, atol=1e-9)
        assert (np.abs(fit.theta[:, 0] - clean.theta[:, 0]) < error).all()
        assert (fit.gradient < 1e-2).all()
        assert_allclose(np.trace(fit.learned.covariance), np.trace(clean.learned.covariance), rtol=0.2)
    # Labelled, such a number is as good as missing, and a spectrum of them tells next to nothing.
    some = np.arange(50)
    flux, huge, zero = others.flux.copy(), others.ivar.copy(), others.ivar.copy()
    flux[some, 3], huge[some, 3], zero[some, 3] = 50.0, 1e-10, 0.0
    got, expected = (case.fitted(clean, replace_flux(others, flux), ivar) for ivar in (huge, zero))
    sigma = np.sqrt(np.einsum("nkk->nk", expected.covariance))
    assert_allclose((got.labels - expected.labels)[some] / sigma[some], 0, atol=1e-3)
    assert_allclose(got.covariance[some], expected.covariance[some], rtol=1e-4)
    nothing = case.fitted(clean, others, 1e-10 * others.ivar)
    assert (np.einsum("nkk->nk", nothing.covariance) > 1e4 * sigma**2)[np.isfinite(nothing.labels)[:, 0]].all()


def test_huge_errors_in_the_likelihood(case):
    problem = case.problem.of_stars(np.arange(30))
    fit = case.trained(Full(shrinkage=0.0, share=0.0))
    bad = np.zeros(problem.flux.shape, bool)
    bad[:10, 4] = bad[:10, 9] = True
    ivar, flux = np.where(bad, 1e-8, problem.ivar), np.where(bad, 7.0, problem.flux)
    got = fit.learned.log_likelihood(replace(problem, flux=flux, ivar=ivar), fit)
    kept = np.delete(np.arange(N_PIXELS), [4, 9])
    residual = flux - problem.design @ fit.theta.T
    expected = multivariate_normal(cov=fit.learned.covariance[np.ix_(kept, kept)]).logpdf(residual[:10, kept])
    expected += multivariate_normal(cov=1e8).logpdf(residual[:10][:, [4, 9]].reshape(-1)).reshape(-1, 2).sum(axis=1)
    assert_allclose(got[:10], expected, rtol=1e-6)
    assert_allclose(got[10:], fit.learned.log_likelihood(problem, fit)[10:], rtol=1e-12)


@pytest.mark.parametrize("heavy_tails", [False, True])
def test_fainter_stars_have_larger_errors(heavy_tails):
    """The covariance of each star is noise that its ivar tells of; others are up to three times as noisy."""
    case, other = Case(300, seed=11), Case(1500, seed=12)
    rng = np.random.default_rng(13)
    for one, loudest in ((case, 2.0), (other, 6.0)):
        growth = rng.uniform(0.5, loudest, len(one.labels))
        noise = rng.multivariate_normal(np.zeros(N_PIXELS), case.covariance, len(growth)) * np.sqrt(growth)[:, None]
        one.flux = one.design @ one.theta.T + noise + 1e-4 * rng.normal(size=noise.shape)
        one.ivar = np.broadcast_to(1 / (0.002**2 * growth)[:, None], noise.shape)
        one.problem = PixelProblem.unbounded(one.problem.terms, one.flux, one.ivar)
    fit = case.trained(Full(heavy_tails=heavy_tails))
    assert fit.learned.slope > 3 * fit.learned.constant
    found = case.fitted(fit, other)
    pulls = (found.labels - other.labels) / np.sqrt(np.einsum("nkk->nk", found.covariance))
    loud = other.ivar[:, 0] < np.median(other.ivar[:, 0])
    for part in (loud, ~loud):
        assert_allclose(pulls[part].std(axis=0), 1, atol=0.15)
        assert_allclose(found.reduced_chi_squared[part].mean(), 1, atol=0.15)


@pytest.mark.parametrize("scatter", [Full(), Full(heavy_tails=True), Full(shrinkage=0.2)])
def test_errors_of_labels_are_right_with_few_stars(scatter, others):
    few = Case(100, seed=22)
    found = few.fitted(few.trained(scatter), others)
    pulls = (found.labels - others.labels) / np.sqrt(np.einsum("nkk->nk", found.covariance))
    # The median of 100 stars with two labels tells the scale to about 8 %, of both together; it was off by factors.
    robust = 1.4826 * np.median(np.abs(pulls), axis=0)
    assert_allclose(np.sqrt(robust.prod()), 1, atol=0.25)
    assert (robust < 1.4).all()


def test_errors_of_theta_count_once(others):
    few = Case(60, seed=3)
    fit = few.trained(Full())
    covariance = np.zeros((N_PIXELS, VECTORIZER.n_terms, VECTORIZER.n_terms))
    model = TrainedModel(fit.theta, fit.s2, fit.learned, few.problem.terms, few.scaling, covariance)
    with own_jax_settings():
        _, growth = variances(model.theta_errors, others.design)
    leverage = np.einsum("nd,de,ne->n", others.design, np.linalg.inv(few.design.T @ few.design), others.design)
    assert leverage.mean() > 0.1
    # The scale of the covariance is that of held-out stars, whose spectra are off by the errors of theta, too.
    growth = np.asarray(growth)
    assert_allclose(growth.mean(), 1, atol=0.03)
    assert_allclose(growth * fit.learned.theta_included, 1 + leverage, rtol=1e-9)


def test_reduced_chi_squared_is_about_one(case, heavy, others):
    normal = case.trained(Full())
    for fit in (heavy, normal):
        assert_allclose(np.median(case.fitted(fit, others).reduced_chi_squared), 1, atol=0.12)
    ivar = np.where(np.arange(N_PIXELS) % 6 == 0, 0.0, others.ivar[:300])
    some = replace_flux(others, others.flux[:300])
    assert_allclose(np.median(case.fitted(heavy, some, ivar).reduced_chi_squared), 1, atol=0.2)
