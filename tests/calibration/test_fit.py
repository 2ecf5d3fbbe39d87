"""Calibrated errors: the truth is found again, other stars are covered, and bad input is named."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from bayes_cannon import validate
from bayes_cannon.calibration import fit as module
from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.calibration.fit import CalibrationWarning, calibrate
from bayes_cannon.labelling.leverage import leverage, leverage_root

UNIT = np.array([50.0, 0.1])
N_STARS = 1500
CORRELATION = np.array([[1, 0.5], [0.5, 1]])
TRUTH = Calibration(
    log_scale=np.log([3.0, 0.5]), slope=np.array([0.3, -0.2]), floor=0.36 * CORRELATION * np.outer(UNIT, UNIT),
    power=np.array([0.8, 0.5]), tails=3.0, tail_power=-0.5, snr_median=100.0, leverage_median=1.0,
    snr_range=(50.0, 200.0), spread={}, n_stars=0, n_left_out=0, r_hat=np.nan, divergences=0,
)  # fmt: skip


def simulated(seed: int, n_stars: int = N_STARS) -> dict:
    """Residuals of stars by the distribution of `TRUTH`, with reference labels that err by a third of the unit."""
    rng = np.random.default_rng(seed)
    snr, reach = np.exp(rng.uniform(np.log(50), np.log(200), n_stars)), np.exp(rng.normal(0, 0.5, n_stars))
    correlation = rng.uniform(-0.5, 0.5, n_stars)
    covariance = np.array([[np.ones(n_stars), correlation], [correlation, np.ones(n_stars)]]).transpose(2, 0, 1)
    errors = np.array([0.3, 0.8]) * UNIT * (100 / snr[:, None]) * rng.uniform(0.7, 1.4, (n_stars, 2))
    covariance = covariance * errors[:, :, None] * errors[:, None, :]
    own = UNIT * rng.uniform(0.2, 0.4, (n_stars, 2))
    matrix = TRUTH.scale_matrix(covariance, snr, reach, own)
    normal = np.einsum("nkl,nl->nk", np.linalg.cholesky(matrix), rng.normal(size=(n_stars, 2)))
    nu = TRUTH.nu(snr)
    difference = normal / np.sqrt(rng.chisquare(nu) / nu)[:, None]
    return {
        "difference": difference, "covariance": covariance, "snr": snr, "leverage": reach, "reference_errors": own
    }  # fmt: skip


@pytest.fixture(scope="module")
def stars():
    return simulated(0)


@pytest.fixture(scope="module")
def found(stars):
    return calibrate(**stars, key=1)


@pytest.mark.slow
def test_truth_is_found(found):
    for name in ("log_scale", "slope", "power", "tail_power"):
        off = (getattr(found, name) - getattr(TRUTH, name)) / found.spread[name]
        assert (np.abs(off) < 4).all(), name
    assert abs(np.log(found.tails / TRUTH.tails)) < 4 * found.spread["tails"] / found.tails
    deviations = np.sqrt(np.diag(found.floor)), np.sqrt(np.diag(TRUTH.floor))
    assert (np.abs(deviations[0] - deviations[1]) < 4 * found.spread["floor"]).all()
    assert abs(found.floor[0, 1] / np.prod(deviations[0]) - 0.5) < 0.2
    # Known well enough for these to say something.
    assert (found.spread["log_scale"] < [0.15, 0.25]).all()
    assert (found.spread["floor"] < 0.25 * deviations[1]).all()
    assert found.r_hat < 1.05
    assert found.divergences <= 6
    assert (found.n_stars, found.n_left_out) == (N_STARS, 0)


@pytest.mark.slow
def test_other_stars_are_covered(found):
    fresh = simulated(7, 20_000)
    difference, rest = fresh.pop("difference"), fresh
    third = np.digitize(rest["snr"], np.quantile(rest["snr"], [1 / 3, 2 / 3]))
    for level in (0.68, 0.95):
        inside = np.abs(difference) < found.half_width(level, **rest)
        for part in range(3):
            assert_allclose(inside[third == part].mean(axis=0), level, atol=0.03)
    pulls = difference / validate.label_errors(found.covariance(**rest))
    assert_allclose(pulls.std(axis=0), 1, atol=0.1)
    # A constant error and the formal ones say less of the stars, the truth hardly more.
    score = found.log_score(difference, **rest).mean()
    constant = np.broadcast_to(np.cov(difference.T), rest["covariance"].shape)
    assert score > validate.log_scores(difference, 0 * difference, constant).mean() + 0.05
    formal = rest["covariance"] + rest["reference_errors"][:, :, None] ** 2 * np.eye(2)
    assert score > validate.log_scores(difference, 0 * difference, formal).mean() + 0.05
    assert 0 < TRUTH.log_score(difference, **rest).mean() - score < 0.01


def test_what_is_not_known_is_left_out(stars, monkeypatch):
    spoiled = {name: np.concatenate([values, values[:6]]) for name, values in stars.items()}
    last = np.arange(N_STARS, N_STARS + 6)
    spoiled["difference"][last[0], 1] = np.nan
    spoiled["covariance"][last[1]] = np.nan
    spoiled["snr"][last[2:4]] = [np.nan, -3.0]
    spoiled["leverage"][last[4]] = np.inf
    spoiled["covariance"][last[5], 0, 0] = 0.0
    given = []

    def noted(density, *_):
        given.append(density)
        z = np.random.default_rng(0).normal(size=(4, 100, 2))
        return _draws(z), 0, z

    monkeypatch.setattr(module, "_sampled", noted)
    calibrate(**stars)
    again = calibrate(**spoiled)
    assert (again.n_stars, again.n_left_out) == (N_STARS, 6)
    for one, other in zip(*given, strict=True):
        assert_array_equal(one, other)
    # Calibrated errors of such stars are not known either.
    assert np.isnan(TRUTH.covariance(spoiled["covariance"], spoiled["snr"])[last[1:3]]).all()


def _draws(chains):
    """Draws of everything that the calibration is made of, from some of shape (chain, draw, 2)."""
    one = np.exp(chains[..., 0])
    of_labels = dict.fromkeys(("log_scale", "slope", "power"), chains)
    return of_labels | {"floor": one[..., None, None] * np.eye(2), "tails": one, "tail_power": one}


@pytest.mark.slow
def test_scale_and_floor_that_cannot_be_told_apart():
    rng = np.random.default_rng(3)
    covariance, snr = np.full((100, 1, 1), 0.25), np.full(100, 80.0)
    difference = 2.0 * rng.normal(size=(100, 1))
    one = calibrate(difference, covariance, snr, key=0)
    assert one.r_hat < 1.05
    # Formal errors are a quarter of the scatter: the sum is known, the shares are not.
    pulls = difference / validate.label_errors(one.covariance(covariance, snr))
    assert_allclose(pulls.std(axis=0), 1, atol=0.15)
    assert (one.spread["log_scale"] > 0.25).all()


def test_a_floor_alone_is_added():
    floor, rng = np.array([[4.0, 0.1], [0.1, 0.01]]), np.random.default_rng(0)
    calibration = Calibration.from_floor(floor)
    covariance, snr = np.broadcast_to(np.diag([1.0, 0.04]), (5, 2, 2)), rng.uniform(10, 300, 5)
    assert_array_equal(calibration.covariance(covariance, snr), covariance + floor)
    assert_array_equal(calibration.floor_covariance(snr), np.broadcast_to(floor, (5, 2, 2)))
    errors = np.sqrt(np.diag(covariance[0] + floor))
    assert_allclose(calibration.half_width(0.95, covariance, snr)[0], stats.norm.ppf(0.975) * errors)
    difference = rng.normal(size=(5, 2))
    expected = stats.multivariate_normal(np.zeros(2), covariance[0] + floor).logpdf(difference)
    assert_allclose(calibration.log_score(difference, covariance, snr), expected)


def test_distribution_is_scipys():
    one = {name: values[:3] for name, values in simulated(2, 10).items()}
    difference, rest = one.pop("difference"), one
    matrix, nu = TRUTH.scale_matrix(**rest), TRUTH.nu(rest["snr"])
    for n, score in enumerate(TRUTH.log_score(difference, **rest)):
        assert_allclose(score, stats.multivariate_t(np.zeros(2), matrix[n], df=nu[n]).logpdf(difference[n]))
    expected = stats.t(nu[:, None], scale=np.sqrt(np.einsum("nkk->nk", matrix)))
    assert_allclose(TRUTH.half_width(0.68, **rest), expected.ppf(0.84))
    assert_allclose(np.einsum("nkk->nk", TRUTH.covariance(**rest)), expected.var())
    # Without the reference's errors formal part and floor make the whole, and beyond the S/N seen the nearest counts.
    bare = {name: rest[name] for name in ("covariance", "snr", "leverage")}
    outside = bare | {"snr": np.array([1.0, 50.0, 1e5])}
    nearest = bare | {"snr": np.array([50.0, 50.0, 200.0])}
    assert_array_equal(TRUTH.covariance(**outside), TRUTH.covariance(**nearest))
    without_floor = replace(TRUTH, floor=0 * TRUTH.floor)
    parts = without_floor.covariance(**bare) + TRUTH.floor_covariance(rest["snr"], rest["leverage"])
    assert_allclose(TRUTH.covariance(**bare), parts)


def test_leverage():
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(50), rng.normal(size=(50, 2))])
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    assert_allclose(leverage(leverage_root(design), design), 50 / 3 * np.diag(hat))
    mixed = design @ np.array([[1.0, 3.0, 0], [0, 2, 1], [0, 0, 5]])
    assert_allclose(leverage(leverage_root(mixed), mixed), leverage(leverage_root(design), design))
    # A term that is the sum of others adds nothing.
    repeated = np.column_stack([design, design[:, 1] + design[:, 2]])
    assert_allclose(leverage(leverage_root(repeated), repeated), leverage(leverage_root(design), design))


def test_chains_that_have_not_mixed_are_run_again_and_warned_of(stars, monkeypatch):
    lengths, densities, drawn = [], [], []

    def stuck(density, key, n_warmup, n_draws):
        lengths.append((n_warmup, n_draws))
        densities.append(density)
        n_parameters = len(density.mean)
        drawn.append(rng.normal(size=(4, n_draws, n_parameters)) @ rng.normal(size=(n_parameters, n_parameters)))
        return _draws(rng.normal(size=(4, n_draws, 2)) + np.arange(4)[:, None, None]), 2, drawn[-1]

    rng = np.random.default_rng(0)
    monkeypatch.setattr(module, "_sampled", stuck)
    with pytest.warns(CalibrationWarning, match=r"R-hat is [1-9]\.[0-9]*, and 2 draws diverged\. Raise n_warmup"):
        found = calibrate(**stars, n_warmup=10, n_draws=20)
    assert lengths == [(10, 20), (40, 80)]
    # In the coordinates of the second run the first one's draws, and some of unit variance, have unit covariance.
    (first, second), z = densities, drawn[0].reshape(80, -1)
    n_parameters = z.shape[1]
    more = np.sqrt(5 * n_parameters) * np.eye(n_parameters)
    again, more = (np.linalg.solve(second.root, first.root @ part.T) for part in (z - z.mean(axis=0), more))
    assert_allclose(first.mean + first.root @ z.mean(axis=0), second.mean)
    whole = (80 * again @ again.T / 79 + more @ more.T) / (80 + 5 * n_parameters)
    assert_allclose(whole, np.eye(n_parameters), atol=1e-9)
    assert found.r_hat > 1.05
    draws = {"tails": np.ones((4, 50))}
    assert module._mixed(1.01, 2, draws)
    assert not module._mixed(1.01, 3, draws)
    assert not module._mixed(np.nan, 0, draws)


def test_draws_that_are_all_the_same_make_a_metric(stars, monkeypatch):
    """With which chains start anew, to be warned of in the end."""
    densities = []

    def stuck(density, key, n_warmup, n_draws):
        densities.append(density)
        chains = np.ones((4, n_draws, 2)) * np.arange(4)[:, None, None]
        return _draws(chains), 0, np.ones((4, n_draws, len(density.mean)))

    monkeypatch.setattr(module, "_sampled", stuck)
    with pytest.warns(CalibrationWarning, match="have not mixed"):
        calibrate(**stars, n_warmup=1, n_draws=4)
    first, second = densities
    assert_allclose(second.mean, first.mean + first.root.sum(axis=1))
    n_parameters = len(first.mean)
    kept = 5 * n_parameters / (16 + 5 * n_parameters)
    assert_allclose(second.root @ second.root.T, kept * first.root @ first.root.T, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("difference", lambda d: d[:, 0], r"difference must have shape \(star, label\)"),
        ("covariance", lambda c: c[:, 0], r"covariance must have shape \(1500, 2, 2\)"),
        ("snr", lambda s: s[:-1], r"snr must have shape \(1500,\)"),
        ("leverage", lambda h: h[:, None], r"leverage must have shape \(1500,\)"),
        ("reference_errors", lambda r: r[:, :1], r"reference_errors must have shape \(1500, 2\)"),
        ("reference_errors", lambda r: -r, "label 0 of star 0: give NaN or 0"),
        ("covariance", lambda c: c + 5 * np.sqrt(c[:, :1, :1] * c[:, 1:, 1:]) * [[0, 1], [1, 0]], "not positive def"),
        ("difference", lambda d: d * [1, 0], "residuals of label 1 are the same"),
        ("difference", lambda d: np.where(np.arange(1500)[:, None] < 9, d, np.nan), "9 parameters, but only 9 held"),
    ],
)  # fmt: skip
def test_bad_input_is_named(stars, name, change, match):
    with pytest.raises(ValueError, match=match):
        calibrate(**(stars | {name: change(stars[name])}))


def test_bad_arguments_of_a_calibration_are_named(stars):
    with pytest.raises(ValueError, match=r"covariance must have shape \(star, 2, 2\)"):
        TRUTH.covariance(stars["covariance"][:, :1], stars["snr"])
    with pytest.raises(ValueError, match="leverage must have shape"):
        TRUTH.covariance(stars["covariance"], stars["snr"], np.ones(3))
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        TRUTH.half_width(68, stars["covariance"], stars["snr"])
