"""Labels whose spectrum has a covariance that depends on them: against dense densities, derivatives and grids."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2, multivariate_normal, multivariate_t

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer, monomials
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.labelling.compressed import compressed_batch
from bayes_cannon.labelling.error_budget import error_budget
from bayes_cannon.labelling.fit import fit_labels
from bayes_cannon.labelling.label_scale import LabelScale, objectives
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.labelling.training_fit import training_goodness
from bayes_cannon.posterior.labels.chains import star_items
from bayes_cannon.posterior.labels.density import label_potential
from bayes_cannon.posterior.labels.label_posterior import RegionModel, _compressed, label_posterior
from bayes_cannon.posterior.labels.priors import LabelPrior
from bayes_cannon.scatter import CommonCovariance

VECTORIZER = PolynomialVectorizer(("A", "B"), 2)
BETA = np.array([0.9, -0.6])
N_PIXELS = 12
UNIT = LabelScaling.from_labels(np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]), ("A", "B"))


class Case:
    """Spectra of 12 pixels whose covariance is ``exp(beta . x) (0.4 + 0.6 g) C``, of normal or heavy tails."""

    def __init__(self, n_stars: int, nu: float = np.inf, seed: int = 0, spread: float = 0.4, x=None):
        rng, fixed = np.random.default_rng(seed), np.random.default_rng(1)
        self.x = rng.uniform(-1, 1, (n_stars, 2)) if x is None else np.broadcast_to(x, (n_stars, 2))
        self.theta = fixed.normal(0, 0.1, (N_PIXELS, VECTORIZER.n_terms)) * [1, 1, 1, 0.3, 0.3, 0.3]
        root = 0.02 * fixed.normal(0, 1, (N_PIXELS, N_PIXELS))
        self.covariance = root @ root.T + 0.01**2 * np.eye(N_PIXELS)
        self.level = np.exp(rng.normal(0, spread, n_stars))
        self.ivar = np.tile(1 / (0.02**2 * self.level[:, None]), N_PIXELS)
        self.c = np.exp(self.x @ BETA) * (0.4 + 0.6 * self.level)
        tau = np.ones(n_stars) if np.isinf(nu) else rng.gamma(nu / 2, 2 / nu, n_stars)
        noise = rng.multivariate_normal(np.zeros(N_PIXELS), self.covariance, n_stars)
        self.flux = monomials(self.x, VECTORIZER.exponents) @ self.theta.T + noise * np.sqrt(self.c / tau)[:, None]
        quoted = np.full(N_PIXELS, 0.02)
        values, vectors = np.linalg.eigh(self.covariance / 0.02**2)
        factors = (0.02 * vectors * np.sqrt(values))[:, ::-1]
        own = np.maximum(np.diagonal(self.covariance) - 0.02**2, 0)
        self.learned = CommonCovariance(factors, quoted, nu, 0.0, 1.0, quoted, own, 0.4, 0.6, label_scale=BETA)
        grid = np.random.default_rng(5).uniform(-1, 1, (80, 2))
        self.model = TrainedModel(self.theta, own, self.learned, Terms(VECTORIZER.exponents, grid), UNIT)

    def log_density(self, star: int, x: np.ndarray, theta_covariance: np.ndarray | None = None) -> np.ndarray:
        """By SciPy at points (point, label), with errors of theta where they are given."""
        v = monomials(x, VECTORIZER.exponents)
        c = np.exp(x @ BETA) * (0.4 + 0.6 * self.level[star])
        if theta_covariance is not None:
            c = c + np.sum((v @ theta_covariance) * v, axis=1)
        out = np.empty(len(x))
        for k, mean in enumerate(v @ self.theta.T):
            if np.isinf(self.learned.nu):
                out[k] = multivariate_normal(mean, c[k] * self.covariance).logpdf(self.flux[star])
            else:
                out[k] = multivariate_t(mean, c[k] * self.covariance, self.learned.nu).logpdf(self.flux[star])
        return out


KINDS = pytest.mark.parametrize("nu", [np.inf, 4.0], ids=["normal", "heavy"])


def of_objective(nu: float, value: np.ndarray) -> np.ndarray:
    """-2 ln L."""
    return value if np.isinf(nu) else (nu + N_PIXELS) * np.log1p(value / nu)


@KINDS
def test_objective_is_the_density_of_the_whole_covariance(nu):
    case, x = Case(5, nu), np.random.default_rng(2).uniform(-1.5, 1.5, (7, 2))
    with own_jax_settings():
        tables = case.model.tables
        found = compressed_batch(tables, case.flux, case.ivar)
        function = objectives(tables.starts.moment_tables, found.coefficients, tables.scale_of(found.n_tail))
        value = np.asarray(function(jnp.asarray(np.broadcast_to(x, (5, 7, 2)))).value)
    for star in range(5):
        expected = -2 * case.log_density(star, x)
        difference = of_objective(nu, value[star]) - expected
        assert_allclose(difference, difference[0], rtol=0, atol=1e-10 * np.abs(expected).max())


@KINDS
def test_density_of_a_spectrum_is_that_of_the_whole_covariance(nu):
    from bayes_cannon.training.problem import PixelProblem

    case = Case(6, nu)
    problem = PixelProblem.unbounded(Terms(VECTORIZER.exponents, case.x), case.flux, case.ivar)
    density = case.learned.log_likelihood(problem, case.model)
    expected = [case.log_density(star, case.x[star : star + 1])[0] for star in range(6)]
    # The covariance is that of 12 directions, of which none is across.
    assert_allclose(density, expected, rtol=1e-10)


@KINDS
def test_derivatives_are_those_of_the_value(nu):
    case = Case(3, nu)
    with own_jax_settings():
        tables = case.model.tables
        found = compressed_batch(tables, case.flux, case.ivar)
        scale = tables.scale_of(found.n_tail)
        function = objectives(tables.starts.moment_tables, found.coefficients, scale)
        x = jnp.asarray(case.x)

        def value(x):
            return jnp.sum(function(x[:, None]).value)

        point = function(x[:, None])
        assert_allclose(point.gradient[:, 0], jax.grad(value)(x), rtol=1e-10, atol=1e-9)
        hessian = jnp.einsum("nknl->nkl", jax.hessian(value)(x))
        assert_allclose(point.hessian[:, 0], hessian, rtol=1e-10, atol=1e-8)
        exponent = scale.exponent(x)
        p = function.polynomials(x[:, None]).value[:, 0]
        assert_allclose(scale.chi_squared(point.value[:, 0], exponent), p * jnp.exp(-exponent), rtol=1e-10)


@KINDS
def test_labels_are_those_of_highest_likelihood(nu):
    from scipy.optimize import minimize

    case = Case(4, nu)
    fit = fit_labels(case.model, case.flux, case.ivar)
    assert (fit.decrement < 1e-8).all()
    for star in range(4):
        best = minimize(lambda x, star=star: -case.log_density(star, x[None])[0], case.x[star], method="Nelder-Mead",
                        options={"xatol": 1e-7, "fatol": 1e-10})  # fmt: skip
        assert_allclose(UNIT.scaled(fit.labels[star]), best.x, rtol=0, atol=1e-5)
    c = np.exp(UNIT.scaled(fit.labels) @ BETA)
    plain = TrainedModel(
        case.theta, case.model.s2, replace(case.learned, label_scale=None), case.model.terms, UNIT
    )  # fmt: skip
    with own_jax_settings():
        from bayes_cannon.labelling.compressed import compare

        found = compressed_batch(plain.tables, case.flux, case.ivar)
        chi_squared, _ = compare(plain.tables, found.root, found.w, found.y, UNIT.scaled(fit.labels)[:, None])
    assert_allclose(fit.chi_squared, np.asarray(chi_squared) / c, rtol=1e-9)


@KINDS
def test_zero_beta_is_no_beta(nu):
    case = Case(8, nu)
    plain, zero = (
        TrainedModel(case.theta, case.model.s2, replace(case.learned, label_scale=beta), case.model.terms, UNIT)
        for beta in (None, np.zeros(2))
    )
    one, other = fit_labels(plain, case.flux, case.ivar), fit_labels(zero, case.flux, case.ivar)
    assert_allclose(other.labels, one.labels, rtol=0, atol=1e-8)
    assert_allclose(other.covariance, one.covariance, rtol=1e-6, atol=1e-12)
    assert_allclose(other.chi_squared, one.chi_squared, rtol=1e-9)


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("with_theta", [False, True], ids=["theta known", "theta integrated out"])
def test_posterior_means_are_those_of_a_grid(nu, with_theta):
    import numpyro.distributions as dist

    case = Case(3, nu, seed=3)
    inside = 0.05 * np.eye(VECTORIZER.n_terms) if with_theta else None
    with own_jax_settings():
        prior = LabelPrior(
            dist.MultivariateNormal(np.zeros(2), 0.5 * np.eye(2)), np.full(2, -np.inf), np.full(2, np.inf)
        )
    region = RegionModel(case.model, prior, inside)
    found = label_posterior([region], case.flux, case.ivar)
    with own_jax_settings():
        assert (found.log_evidence < _compressed(region, case.flux, case.ivar).bound).all()
    axis = np.linspace(-3, 3, 121)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    for star in range(3):
        log = case.log_density(star, x, inside) - np.sum(x**2, axis=1)
        weight = np.exp(log - log.max())
        weight /= weight.sum()
        mean = weight @ x
        sigma = np.sqrt(weight @ (x - mean) ** 2)
        assert_allclose((UNIT.scaled(found.labels[star]) - mean) / sigma, 0.0, atol=0.12)
        unit = UNIT.factor * UNIT.scale
        assert_allclose(np.sqrt(np.diagonal(found.covariance[star])) / unit, sigma, rtol=0.12)


@KINDS
def test_density_that_is_sampled_is_the_same(nu):
    case = Case(3, nu)
    prior = LabelPrior(None, np.full(2, -np.inf), np.full(2, np.inf))
    from bayes_cannon.posterior.labels.chains import LabelRun

    with own_jax_settings():
        run = LabelRun(case.model, prior, None, None, 3)
        found = compressed_batch(case.model.tables, case.flux, case.ivar)
        items = star_items(run, np.asarray(found.coefficients), np.asarray(found.n_tail))
        potential = label_potential(tuple(map(tuple, VECTORIZER.exponents.tolist())), prior.kinds)
        for star in range(3):
            item = jax.tree.map(lambda array, star=star: array[star], items)
            x = np.random.default_rng(4).uniform(-1, 1, (4, 2))
            value = np.array([float(potential(item, z)) for z in x])
            expected = -case.log_density(star, x)
            assert_allclose(value - value[0], expected - expected[0], rtol=0, atol=1e-9 * np.abs(expected).max())


@KINDS
def test_parts_of_the_errors_add_up(nu):
    case = Case(6, nu)
    rng = np.random.default_rng(0)
    root = rng.normal(0, 0.05, (VECTORIZER.n_terms, VECTORIZER.n_terms))
    theta_covariance = np.diagonal(case.covariance)[:, None, None] * (root @ root.T + 0.01 * np.eye(len(root)))
    for covariance in (None, theta_covariance):
        model = replace(case.model, theta_covariance=covariance)
        fit = fit_labels(model, case.flux, case.ivar)
        budget = error_budget(model, fit, case.ivar)
        assert_allclose(budget.total, np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2)), rtol=1e-5)


def test_fits_of_training_spectra_are_over_their_scale():
    case = Case(300)
    model = replace(case.model, terms=Terms(VECTORIZER.exponents, case.x))
    goodness = training_goodness(model, SimpleNamespace(flux=case.flux, ivar=case.ivar, covariance=None))
    assert_allclose(np.mean(goodness.reduced_chi_squared), 1.0, atol=0.1)


def squares(case: Case, beta: np.ndarray | None, theta_covariance: np.ndarray | None = None) -> np.ndarray:
    """Squared distance of labels from the truth in their errors, a chi^2 of two labels where the errors are right."""
    learned = replace(case.learned, label_scale=beta)
    model = TrainedModel(case.theta, case.model.s2, learned, case.model.terms, UNIT, theta_covariance)
    fit = fit_labels(model, case.flux, case.ivar)
    away = UNIT.scaled(fit.labels) - case.x
    unit = UNIT.factor * UNIT.scale
    return np.einsum("nk,nk->n", away, np.linalg.solve(fit.covariance / np.outer(unit, unit), away[..., None])[..., 0])


@pytest.mark.slow
@KINDS
def test_errors_cover_at_both_ends(nu):
    median = chi2(2).median()
    for end in (-0.8, 0.8):
        case = Case(500, nu, seed=7, x=end * np.sign(BETA))
        right, wrong = (np.mean(squares(case, beta) < median) for beta in (BETA, None))
        # Five hundred stars tell a half to 0.022; the variances are wrong by a factor of exp(1.2).
        assert abs(right - 0.5) < 0.075
        # Heavy tails learn some of the scale from the spectrum itself.
        assert (wrong - 0.5) * -np.sign(end) > 0.08


def test_scale_of_one_star():
    scale = LabelScale(np.array([1.0]), np.inf, np.array([10.0]))
    with own_jax_settings():
        assert_allclose(scale.objective(np.array([10.0]), np.array([0.5])), 5 + 10 * np.exp(-0.5))
