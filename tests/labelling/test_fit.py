from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy.optimize import least_squares

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.status import StarStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer, monomials
from bayes_cannon.labelling.fit import WORKERS, LabelFit, _medians, fit_batches, fit_label_stream, fit_labels
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.scatter import IndependentScatter

NAMES = ("TEFF", "LOGG", "FE_H")
VECTORIZER = PolynomialVectorizer(NAMES, 2)
N_PIXELS = 60
BATCH = 64
"""One batch size for all tests, so that they share a compiled program."""


def simulated(n_stars: int, seed: int, noise: float = 1.0) -> dict:
    """A model with a pixel without solution, training labels, and stars drawn from it."""
    rng = np.random.default_rng(0)
    training_labels = np.column_stack([rng.uniform(4000, 6000, 200), rng.uniform(1, 4, 200), rng.normal(0, 0.3, 200)])
    scaling = LabelScaling.from_labels(training_labels, NAMES)
    theta = rng.normal(0, 0.03, (N_PIXELS, VECTORIZER.n_terms))
    theta[:, 4:] *= 0.3
    theta[:, 0] = 0.9
    s2 = rng.uniform(0, 1e-4, N_PIXELS)
    theta[7] = np.nan

    rng = np.random.default_rng(seed)
    labels = training_labels[rng.integers(0, 200, n_stars)]
    sigma = rng.uniform(0.005, 0.01, (n_stars, N_PIXELS))
    flux = monomials(scaling.scaled(labels), VECTORIZER.exponents) @ theta.T
    s2[7] = 0
    flux += noise * np.sqrt(sigma**2 + s2) * rng.normal(size=flux.shape)
    flux[:, 7] = 1.0
    s2[7] = np.inf
    return {
        "labels": labels,
        "flux": flux,
        "ivar": 1 / sigma**2,
        "model": {"theta": theta, "s2": s2, "scaling": scaling, "training_labels": training_labels},
    }


def trained(model: dict, vectorizer: PolynomialVectorizer = VECTORIZER) -> TrainedModel:
    """The model with independent scatter."""
    scaling = model["scaling"]
    terms = Terms(vectorizer.exponents, scaling.scaled(model["training_labels"]))
    return TrainedModel(model["theta"], model["s2"], IndependentScatter(), terms, scaling)


def fitted(data: dict, **changes: object) -> LabelFit:
    model = data["model"] | {name: changes.pop(name) for name in data["model"] if name in changes}
    arguments: dict[str, Any] = {"flux": data["flux"], "ivar": data["ivar"], "batch_size": BATCH} | changes
    return fit_labels(trained(model), **arguments)


def reference(data: dict, star: int, start: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Labels, chi^2 and covariance by SciPy's least squares over the pixels."""
    model = data["model"]
    used = np.isfinite(model["s2"]) & (data["ivar"][star] > 0)
    root = np.sqrt(1 / (1 / data["ivar"][star, used] + model["s2"][used]))
    theta, flux, scaling = model["theta"][used], data["flux"][star, used], model["scaling"]

    def residual(x: np.ndarray) -> np.ndarray:
        return root * (flux - theta @ VECTORIZER.get_label_vector(x)[:, 0])

    def jacobian(x: np.ndarray) -> np.ndarray:
        return -root[:, None] * (theta @ VECTORIZER.get_label_vector_derivative(x))

    best = least_squares(residual, scaling.scaled(start), jacobian, xtol=1e-15, ftol=1e-15, gtol=1e-15)
    unit = scaling.factor * scaling.scale
    covariance = np.linalg.inv(best.jac.T @ best.jac) * np.outer(unit, unit)
    return scaling.unscaled(best.x), 2 * best.cost, covariance


@pytest.fixture(scope="module")
def data() -> dict:
    return simulated(12, seed=1)


@pytest.fixture(scope="module")
def fit(data: dict) -> LabelFit:
    return fitted(data)


def test_equals_least_squares_over_the_pixels(data: dict, fit: LabelFit) -> None:
    for star in range(12):
        labels, chi_squared, covariance = reference(data, star, data["labels"][star])
        assert fit.chi_squared[star] <= chi_squared * (1 + 1e-9)
        error = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(fit.labels[star] / error, labels / error, rtol=0, atol=1e-5)
        np.testing.assert_allclose(fit.covariance[star], covariance, rtol=1e-6)
    assert (fit.decrement < 1e-10).all()
    assert (fit.covariance == fit.covariance.swapaxes(1, 2)).all()
    assert (np.linalg.eigvalsh(fit.covariance) > 0).all()


def test_diagnostics(data: dict, fit: LabelFit) -> None:
    used = np.isfinite(data["model"]["s2"])
    assert (fit.n_pixels == N_PIXELS - 1).all()
    np.testing.assert_allclose(fit.reduced_chi_squared, fit.chi_squared / (N_PIXELS - 1 - 3))
    np.testing.assert_allclose(fit.snr, np.median((data["ivar"] ** 0.5)[:, used], axis=1), rtol=1e-6)
    assert set(fit.status) <= {StarStatus.CONVERGED, StarStatus.OUTSIDE_TRAINING_SET}
    assert (fit.iterations > 0).all()
    low, high = (f(data["model"]["training_labels"], axis=0) for f in (np.min, np.max))
    inside = ((fit.labels >= low) & (fit.labels <= high)).all(axis=1)
    np.testing.assert_array_equal(inside, fit.status == StarStatus.CONVERGED)


def test_compressed_chi_squared_is_that_over_the_pixels(data: dict) -> None:
    model, rng = data["model"], np.random.default_rng(3)
    basis, tables = MomentBasis.from_terms(VECTORIZER.exponents), trained(model).tables
    w = np.where(np.isfinite(model["s2"]), 1 / (1 / data["ivar"] + np.where(model["s2"] < 1, model["s2"], 0)), 0)
    y = np.where(w > 0, data["flux"], 0)
    with jax.enable_x64(True):
        coefficients = np.array(tables.response.chi_squared(w, np.where(w > 0, y - tables.constant, 0)))
    x = rng.normal(0, 0.5, (12, 3))
    theta = np.nan_to_num(model["theta"])
    direct = np.sum(w * (y - monomials(x, VECTORIZER.exponents) @ theta.T) ** 2, axis=1)
    np.testing.assert_allclose(np.sum(coefficients * monomials(x, basis.exponents), axis=1), direct, rtol=1e-10)


def test_zero_ivar_is_a_dropped_pixel_and_its_flux_never_matters(data: dict) -> None:
    ivar, flux = data["ivar"].copy(), data["flux"].copy()
    dropped = np.random.default_rng(4).random(N_PIXELS) < 0.4
    ivar[:, dropped], flux[:, dropped] = 0, np.nan
    masked = fitted(data, flux=flux, ivar=ivar)
    kept = ~dropped
    model = data["model"]
    shorter = fitted(
        data, flux=flux[:, kept], ivar=ivar[:, kept], theta=model["theta"][kept], s2=model["s2"][kept]
    )  # fmt: skip
    for name in ("n_pixels", "status"):
        np.testing.assert_array_equal(getattr(masked, name), getattr(shorter, name))
    for name in ("labels", "covariance", "chi_squared", "snr"):
        np.testing.assert_allclose(getattr(masked, name), getattr(shorter, name), rtol=1e-8)


def test_stars_are_independent_of_order_batches_and_dtype_of_the_file(
    data: dict, fit: LabelFit, tmp_path: Path
) -> None:
    order = np.random.default_rng(5).permutation(12)
    permuted = fitted(data, flux=data["flux"][order], ivar=data["ivar"][order])
    np.testing.assert_allclose(permuted.labels, fit.labels[order], rtol=1e-10)
    repeats = np.arange(150) % 12
    for name in ("flux", "ivar"):
        np.save(tmp_path / f"{name}.npy", data[name][repeats].astype(">f4"))
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("flux", "ivar")}
    finished: list[int] = []
    many = fitted(data, **mapped, progress=finished.append)
    assert finished == [64, 64, 22]
    error = np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))[repeats]
    np.testing.assert_allclose(many.labels / error, fit.labels[repeats] / error, rtol=0, atol=1e-3)
    default = fitted(data, **{name: data[name][repeats[:BATCH]] for name in ("flux", "ivar")}, batch_size=None)
    np.testing.assert_allclose(default.labels, fit.labels[repeats[:BATCH]], rtol=1e-10)


def test_scale_factor_changes_nothing(data: dict, fit: LabelFit) -> None:
    model = data["model"]
    scaling = LabelScaling(model["scaling"].fiducial, model["scaling"].scale, 2.0)
    theta = model["theta"] * 2.0 ** VECTORIZER.exponents.sum(axis=1)
    scaled = fitted(data, theta=theta, scaling=scaling)
    for name in ("labels", "covariance", "chi_squared"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(fit, name), rtol=1e-7, atol=1e-9)


def test_stars_without_information_are_nan_with_a_status(data: dict, fit: LabelFit) -> None:
    ivar = data["ivar"].copy()
    ivar[0] = 0
    ivar[1, 2:] = 0
    ivar[2, np.arange(N_PIXELS) != 7] = 0
    ivar[3, 3:] = 0
    got = fitted(data, ivar=ivar)
    wanted = [StarStatus.NO_INFORMATION, StarStatus.TOO_FEW_PIXELS, StarStatus.NO_INFORMATION]
    assert got.status[:3].tolist() == wanted
    np.testing.assert_array_equal(got.n_pixels[:4], [0, 2, 0, 3])
    for name in ("labels", "covariance", "chi_squared", "reduced_chi_squared", "decrement"):
        assert np.isnan(getattr(got, name)[:3]).all()
    assert np.isnan(got.snr[[0, 2]]).all()
    assert np.isfinite(got.snr[1])
    assert np.isfinite(got.labels[3]).all()
    assert np.isnan(got.reduced_chi_squared[3])
    np.testing.assert_allclose(got.labels[4:], fit.labels[4:], rtol=1e-10)


def test_unconstrained_label_is_nan_and_the_others_keep_their_errors(data: dict) -> None:
    """The others are as in a model that does not have the label."""
    two = VECTORIZER.exponents[:, 2] == 0
    got = fitted(data, theta=data["model"]["theta"] * two)
    assert (got.status == StarStatus.SINGULAR).all()
    assert np.isnan(got.labels[:, 2]).all()
    assert np.isnan(got.covariance[:, 2]).all()
    model = data["model"]
    smaller = TrainedModel(
        model["theta"][:, two], model["s2"], IndependentScatter(),
        Terms(VECTORIZER.exponents[two][:, :2], model["scaling"].scaled(model["training_labels"])[:, :2]),
        LabelScaling(model["scaling"].fiducial[:2], model["scaling"].scale[:2], model["scaling"].factor),
    )  # fmt: skip
    expected = fit_labels(smaller, data["flux"], data["ivar"])
    error = np.sqrt(np.diagonal(expected.covariance, axis1=1, axis2=2))
    np.testing.assert_allclose(got.labels[:, :2] / error, expected.labels / error, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got.covariance[:, :2, :2], expected.covariance, rtol=1e-6)


def test_two_labels_that_act_as_one_are_nan(data: dict) -> None:
    theta = data["model"]["theta"] * (VECTORIZER.exponents.sum(axis=1) < 2)
    theta[:, 3] = -2 * theta[:, 2]
    got = fitted(data, theta=theta)
    assert (got.status == StarStatus.SINGULAR).all()
    assert np.isnan(got.labels[:, 1:]).all()
    assert np.isfinite(got.labels[:, 0]).all()
    assert (np.isfinite(got.covariance) == np.outer([1, 0, 0], [1, 0, 0]).astype(bool)).all()


def test_noise_free_training_stars_return_their_own_labels() -> None:
    data = simulated(12, seed=6, noise=0.0)
    extremes = data["model"]["training_labels"].argmax(axis=0)
    labels = data["model"]["training_labels"][extremes]
    flux = monomials(data["model"]["scaling"].scaled(labels), VECTORIZER.exponents) @ data["model"]["theta"].T
    flux[:, 7] = 1
    got = fitted(
        data, flux=np.vstack([data["flux"][3:], flux]), initial_labels=np.vstack([data["labels"][3:], labels])
    )  # fmt: skip
    error = np.sqrt(np.diagonal(got.covariance, axis1=1, axis2=2))
    wanted = np.vstack([data["labels"][3:], labels])
    np.testing.assert_allclose(got.labels / error, wanted / error, rtol=0, atol=1e-4)
    assert (got.status == StarStatus.CONVERGED).all()
    assert (got.chi_squared < 1e-8).all()


def test_pulls_of_simulated_stars_have_unit_width() -> None:
    data = simulated(1000, seed=7)
    got = fitted(data)
    pulls = (got.labels - data["labels"]) / np.sqrt(np.diagonal(got.covariance, axis1=1, axis2=2))
    # 1,000 normal pulls: standard error 1 / sqrt(2000) of the width and 1 / sqrt(1000) of the mean.
    assert (np.abs(pulls.std(axis=0) - 1) < 4 / np.sqrt(2000)).all()
    assert (np.abs(pulls.mean(axis=0)) < 4 / np.sqrt(1000)).all()
    assert abs(got.reduced_chi_squared.mean() - 1) < 4 * np.sqrt(2 / 56 / 1000)


@pytest.mark.parametrize("shape", ["one", "all", "each", "several"])
def test_initial_labels_add_starts(data: dict, fit: LabelFit, shape: str) -> None:
    # Far away, so that they can only win by being counted wrongly.
    away = np.array([9000.0, 8.0, 3.0])
    initial = {
        "one": away,
        "all": away[None],
        "each": np.tile(away, (12, 1)),
        "several": np.tile(away, (12, 2, 1)),
    }[shape]
    got = fitted(data, initial_labels=initial)
    np.testing.assert_allclose(got.labels, fit.labels, rtol=1e-8)


def test_the_start_matters_where_chi_squared_has_two_minima() -> None:
    # Flux depends on x^2 and only weakly on x: the minima near +-x differ in chi^2, and the lower one is wanted.
    rng = np.random.default_rng(8)
    vectorizer = PolynomialVectorizer(["TEFF"], 2)
    training_labels = rng.uniform(4000, 6000, 50)[:, None]
    scaling = LabelScaling.from_labels(training_labels, ["TEFF"])
    theta = np.column_stack([np.full(40, 0.9), rng.normal(0, 0.02, 40), rng.normal(0, 1, 40)])
    sigma, truth = 0.005, np.array([4200.0, 5700.0, 4400.0])[:, None]
    flux = monomials(scaling.scaled(truth), vectorizer.exponents) @ theta.T + sigma * rng.normal(size=(3, 40))
    arguments: dict[str, Any] = {
        "theta": theta, "s2": np.zeros(40), "scaling": scaling, "training_labels": training_labels,
    }  # fmt: skip
    model = trained(arguments, vectorizer)
    ivar = np.full(flux.shape, sigma**-2)
    got = fit_labels(model, flux, ivar, batch_size=BATCH)
    error = np.sqrt(got.covariance[:, 0])
    assert (np.abs(got.labels - truth) < 5 * error).all()
    assert (got.status == StarStatus.CONVERGED).all()
    # All training stars on the wrong side of the ridge: a start on the right side, given by the user, wins.
    cool = np.resize(training_labels[scaling.scaled(training_labels) < -0.1], (50, 1))
    model = trained(arguments | {"training_labels": cool}, vectorizer)
    helped = fit_labels(model, flux[1:2], ivar[1:2], initial_labels=np.array([5600.0]), batch_size=BATCH)
    assert helped.start[0] == 3
    np.testing.assert_allclose(helped.labels, got.labels[1:2], rtol=1e-8)
    assert helped.status[0] == StarStatus.OUTSIDE_TRAINING_SET
    misled = fit_labels(model, flux[1:2], ivar[1:2], batch_size=BATCH)
    assert misled.chi_squared[0] > helped.chi_squared[0] + 10


def test_training_stars_that_are_all_alike(data: dict, fit: LabelFit) -> None:
    alike = fitted(data, training_labels=np.tile(data["model"]["training_labels"][:1], (200, 1)))
    np.testing.assert_allclose(alike.labels, fit.labels, rtol=1e-8)


def test_no_star_at_all(data: dict) -> None:
    nothing = fitted(data, flux=data["flux"][:0], ivar=data["ivar"][:0])
    assert nothing.labels.shape == (0, 3)
    assert nothing.covariance.shape == (0, 3, 3)
    assert nothing.status.dtype == int


def test_batches_from_an_iterator(data: dict, fit: LabelFit) -> None:
    none = np.zeros((5, 0, 3))
    pieces = ((data["flux"][part], data["ivar"][part], none[part], None) for part in ([0, 1, 2], [3, 4]))
    parts = list(fit_batches(trained(data["model"]), pieces, BATCH))
    assert [len(part.status) for part in parts] == [3, 2]
    np.testing.assert_allclose(LabelFit.concatenated(parts).labels, fit.labels[:5], rtol=1e-10)


def test_a_stream_of_batches_of_any_size_gives_what_one_array_gives(data: dict, tmp_path: Path) -> None:
    order = np.arange(300) % 12
    np.save(tmp_path / "flux.npy", data["flux"][order])
    flux, ivar = np.load(tmp_path / "flux.npy", mmap_mode="r"), data["ivar"][order]
    start = np.array([5000.0, 2.5, 0.1])
    whole = fitted(data, flux=flux, ivar=ivar, initial_labels=start)
    cuts = [0, 3, 3, 203, 300]
    batches = ((flux[a:b], ivar[a:b]) for a, b in pairwise(cuts))
    parts = list(fit_label_stream(trained(data["model"]), batches, initial_labels=start, batch_size=BATCH))
    assert [len(part.status) for part in parts] == [3, 0, 200, 97]
    together = LabelFit.concatenated(parts)
    for field in fields(LabelFit):
        np.testing.assert_allclose(getattr(together, field.name), getattr(whole, field.name), rtol=1e-10, atol=1e-18)
    assert not list(fit_label_stream(trained(data["model"]), []))


def test_a_stream_reads_a_bounded_number_of_batches_ahead(data: dict) -> None:
    read = []

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for n in range(100):
            read.append(n)
            yield data["flux"], data["ivar"]

    fits = fit_label_stream(trained(data["model"]), batches(), batch_size=BATCH)
    assert not read
    next(fits)
    assert len(read) <= WORKERS + 1
    fits.close()
    assert len(read) <= WORKERS + 1


def test_a_bad_spectrum_does_not_end_a_stream(data: dict) -> None:
    flux = data["flux"].copy()
    flux[2, 5] = np.nan
    batches = [(data["flux"], data["ivar"]), (flux, data["ivar"]), (data["flux"], data["ivar"])]
    first, second, third = fit_label_stream(trained(data["model"]), batches, batch_size=BATCH)
    np.testing.assert_array_equal(first.labels, third.labels)
    assert (second.status == StarStatus.BAD_SPECTRUM).tolist() == [star == 2 for star in range(12)]
    np.testing.assert_array_equal(np.delete(second.labels, 2, 0), np.delete(first.labels, 2, 0))
    with pytest.raises(ValueError, match="flux and ivar must have shape"):
        next(fit_label_stream(trained(data["model"]), [(flux[:, :5], data["ivar"])]))
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        fit_label_stream(trained(data["model"]), [], batch_size=-1)


FAULTS = {
    "flux": ("flux", 70, 3, np.inf),
    "negative": ("ivar", 70, 3, -1.0),
    "nan": ("ivar", 0, 7, np.nan),
    "infinite": ("ivar", 2, 0, np.inf),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_bad_spectrum_has_a_status_and_the_others_their_labels(data: dict, fault: tuple) -> None:
    name, star, pixel, value = fault
    arrays = {key: data[key][np.arange(80) % 12].copy() for key in ("flux", "ivar")}
    good = fitted(data, **arrays)
    arrays[name][star, pixel] = value
    got = fitted(data, **arrays)
    assert np.flatnonzero(got.status == StarStatus.BAD_SPECTRUM).tolist() == [star]
    assert np.isnan(got.labels[star]).all()
    assert np.isnan(got.covariance[star]).all()
    np.testing.assert_array_equal(np.delete(got.labels, star, 0), np.delete(good.labels, star, 0))


def test_a_second_minimum_that_is_as_deep_is_reported() -> None:
    """Without a linear term of A its sign is not known: both labels are found, and both are told."""
    exponents = np.array([[0, 0], [2, 0], [0, 1], [2, 1]])
    rng = np.random.default_rng(0)
    theta = np.column_stack([np.ones(40), rng.normal(0, 0.1, (40, 3))])
    x = rng.uniform(-1, 1, (200, 2))
    model = TrainedModel(
        theta, np.zeros(40), IndependentScatter(), Terms(exponents, x), LabelScaling(np.zeros(2), np.ones(2))
    )
    labels = np.column_stack([rng.uniform(0.4, 0.9, 16), rng.uniform(-0.9, 0.9, 16)])
    flux = monomials(labels, exponents) @ theta.T + 0.01 * rng.normal(size=(16, 40))
    got = fit_labels(model, flux, np.full(flux.shape, 1e4))
    assert (got.status == StarStatus.SEVERAL_MINIMA).all()
    np.testing.assert_allclose(got.second_labels[:, 0], -got.labels[:, 0], atol=1e-6)
    np.testing.assert_allclose(got.second_labels[:, 1], got.labels[:, 1], atol=1e-6)
    np.testing.assert_allclose(got.second_excess, 0, atol=1e-6)


REFUSED = {
    "flux shape": ({"flux": np.ones((12, 5))}, "flux and ivar must have shape"),
    "one spectrum": ({"flux": np.ones(N_PIXELS), "ivar": np.ones(N_PIXELS)}, r"write flux\[None\]"),
    "theta shape": ({"theta": np.ones((N_PIXELS, 4))}, "theta must have shape"),
    "negative s2": ({"s2": np.full(N_PIXELS, -1.0)}, "s2 is -1.0 at pixel 0"),
    "no training star": ({"training_labels": np.ones((0, 3))}, "training labels must have shape"),
    "training NaN": ({"training_labels": np.full((4, 3), np.nan)}, "label 0 of training star 0 is nan"),
    "initial shape": ({"initial_labels": np.ones((5, 3))}, "initial_labels must have shape"),
    "initial NaN": ({"initial_labels": np.full((12, 3), np.nan)}, "initial_labels has nan"),
    "batch size": ({"batch_size": 0}, "batch_size must be a positive integer"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_arguments_are_refused(data: dict, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(data, **changes)


@pytest.mark.parametrize("kind", ["even", "odd", "one number", "mostly one", "just half", "just less", "none"])
def test_median_of_significance(kind):
    """Also where one number is so frequent that nothing has to be sorted."""
    row = np.random.default_rng(3).lognormal(1.0, 1.0, 50)
    often = {"one number": 50, "mostly one": 27, "just half": 26, "just less": 25}.get(kind, 0)
    row[:often] = 1e-3
    row[50 - {"odd": 3, "none": 50}.get(kind, 0) :] = np.inf
    used = row[np.isfinite(row)]
    values = np.stack([np.random.default_rng(4).permutation(row)] * 2).astype(np.float32)
    expected = np.median(used.astype(np.float32)) if used.size else np.nan
    np.testing.assert_equal(_medians(values, np.full(2, used.size)), [expected, expected])
