"""One test for every fault of the existing codes that this package set out not to repeat. Each would fail on the fault.

The name says the fault and whose it is: those without a name are of thecannon 0.2.96, and most of its forks.
"""

import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.core.likelihood import training_scalar
from bayes_cannon.core.status import PixelStatus, StarStatus
from bayes_cannon.training.profile import solver as profile
from bayes_cannon.vectorizer import PolynomialVectorizer

QUADRATIC = PolynomialVectorizer(("TEFF", "LOGG", "FE_H"), 2)


def test_s2_is_not_from_median_chi_squared(training, trained):
    """With s2 such that the median of chi^2 is 1 the variance comes out at 0.44 of the truth: that median is 0.455."""
    loud = training.s2 > 0.006**2
    ratio = trained.s2[loud] / training.s2[loud]
    noise = (1 / training.ivar).mean(axis=0)[loud]
    expected = 1 - 10 / 200 * (training.s2[loud] + noise) / training.s2[loud]
    assert loud.sum() > 15
    assert abs(ratio.mean() - expected.mean()) < 4 * ratio.std() / np.sqrt(loud.sum())
    assert ratio.mean() > 0.8


def test_theta_is_fitted_with_the_s2_that_is_returned(training, trained):
    """Fitted with s2 = 0 and never again, theta would solve other normal equations than those at the returned s2."""
    design = trained.design_matrix
    for s2, solves in ((trained.s2, True), (0.0, False)):
        w = 1 / (1 / training.ivar + s2)
        residual = training.flux - design @ trained.theta.T
        pull = np.abs(design.T @ (w * residual)) / np.sqrt((design**2).T @ w)
        assert pull.max() < 1e-4 if solves else pull.max() > 0.1


def test_covariance_is_in_label_units(training, trained):
    """In scaled units the error of TEFF would be a fraction of a kelvin, whatever the scatter."""
    labels, covariance, _ = trained.test(training.flux, training.ivar)
    error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    scatter = (labels - training.labels).std(axis=0)
    assert_allclose(np.sqrt((error**2).mean(axis=0)), scatter, rtol=0.2)
    assert (error[:, 0] > 1).all()


def test_masks_are_applied_the_way_they_are_documented(training):
    """True means censored: in the docstring, in `create_mask` and in what training does."""
    model = training.model()
    model.censors["TEFF"] = tc.censoring.create_mask(model.dispersion, [(16700, 16750)])
    assert "True (censored) inside the regions" in tc.censoring.create_mask.__doc__
    assert "True means censored" in tc.censoring.Censors.__doc__
    model.train()
    inside = (model.dispersion >= 16700) & (model.dispersion <= 16750)
    acts = (model(training.labels[0]) != model(training.labels[0] + [100, 0, 0])) & (np.abs(model.theta[:, 1]) > 0)
    assert_array_equal(acts, ~inside)


def test_a_fit_that_ends_where_it_started_is_a_result(training, trained):
    """Started from their own optimum, the labels are not NaN."""
    flux, ivar = training.flux[:8], training.ivar[:8]
    labels, _, _ = trained.test(flux, ivar)
    again, _, metadata = trained.test(flux, ivar, initial_labels=labels)
    assert np.isfinite(again).all()
    assert_allclose(again, labels, rtol=1e-9)
    exact = trained(training.labels[:8])
    assert_allclose(trained.test(exact, ivar, initial_labels=training.labels[:8])[0], training.labels[:8], rtol=1e-6)
    assert all(record["status"].has_solution for record in metadata)


def test_no_covariance_is_invented(training):
    """A label that the spectrum does not know has covariance NaN, not ones; the others keep theirs."""
    model = training.model(censors={"FE_H": np.ones(60, bool)})
    model.train()
    labels, covariance, metadata = model.test(training.flux[:8], training.ivar[:8])
    assert {record["status"] for record in metadata} == {StarStatus.SINGULAR}
    assert np.isnan(covariance[:, 2]).all()
    assert np.isnan(labels[:, 2]).all()
    assert np.isfinite(covariance[:, :2, :2]).all()
    assert np.isfinite(labels[:, :2]).all()
    blind = np.zeros((8, 60))
    labels, covariance, _ = model.test(training.flux[:8], blind)
    assert np.isnan(labels).all()
    assert np.isnan(covariance).all()


def test_pixels_of_small_ivar_are_not_dropped(training, trained):
    """Flux in other units has a mean ivar far below 1, and says just as much."""
    factor = 1e4
    ivar = training.ivar / factor**2
    assert (ivar.mean(axis=0) < 1).all()
    theta, s2, metadata = tc.CannonModel(training.labels, factor * training.flux, ivar, QUADRATIC).train()
    assert {record["status"] for record in metadata} <= {PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER}
    assert_allclose(theta / factor, trained.theta, atol=1e-8)
    assert_allclose(s2 / factor**2, trained.s2, rtol=1e-6, atol=1e-12)


def test_constant_labels_do_not_divide_by_zero(training):
    labels = np.where(np.arange(3) == 1, 4.5, training.labels)
    with pytest.raises(ValueError, match="label 'LOGG' is constant"):
        tc.CannonModel(labels, training.flux, training.ivar, QUADRATIC)


def test_one_label_models_and_structured_arrays(training):
    """Both, and both at once; the label may have one dimension."""
    record = np.rec.fromarrays(training.labels.T, names="TEFF,LOGG,FE_H")
    model = tc.CannonModel(record, training.flux, training.ivar, QUADRATIC)
    assert_array_equal(model.training_set_labels, training.labels)

    one = PolynomialVectorizer(("TEFF",), 2)
    model = tc.CannonModel(record, training.flux, training.ivar, one)
    theta, _, _ = model.train()
    assert theta.shape == (60, 3)
    labels, covariance, _ = model.test(training.flux[:8], training.ivar[:8])
    assert labels.shape == (8, 1)
    assert covariance.shape == (8, 1, 1)
    flat = tc.CannonModel(training.labels[:, 0], training.flux, training.ivar, one)
    assert_allclose(flat.train()[0], theta, atol=1e-12)
    assert model.in_convex_hull([[training.labels[0, 0]], [9000.0]]).tolist() == [True, False]


def test_negative_regularization_of_one_pixel_is_refused(training):
    with pytest.raises(ValueError, match=r"got -1\.0 at pixel 9"):
        training.model(regularization=np.where(np.arange(60) == 9, -1.0, 10.0))


def test_boolean_continuum_mask_serves_every_region():
    dispersion = np.arange(200.0)
    flux = np.where(dispersion < 100, 2.0, 5.0)[None]
    mask = np.arange(200) % 3 == 0
    for pixels in (mask, np.flatnonzero(mask)):
        continuum, _ = tc.continuum.sines_and_cosines(
            dispersion, flux, np.full((1, 200), 100.0), pixels, L=1400, order=1, regions=[(0, 99), (100, 199)]
        )
        assert_allclose(continuum, flux, rtol=1e-6)


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_zero_or_negative_continuum_is_guarded(level):
    dispersion = np.arange(200.0)
    flux = np.full((1, 200), level)
    with pytest.warns(tc.core.warnings.ContinuumWarning, match="1 of 1 stars"):
        normalized, ivar, *_ = tc.continuum.normalize(
            dispersion, flux, np.full((1, 200), 100.0), np.arange(200) % 3 == 0, L=1400, order=1
        )
    assert np.isfinite(normalized).all()
    assert_array_equal(ivar, 0)


def test_write_keeps_theta_on_this_python(training, trained, tmp_path):
    """On Python 3.11 and later the original writes None."""
    trained.write(tmp_path / "my.model")
    back = tc.CannonModel.read(tmp_path / "my.model")
    assert back.is_trained
    assert_array_equal(back.theta, trained.theta)
    assert_array_equal(back.s2, trained.s2)


class Trap:
    """Unpickled, it raises the flag."""

    opened = False

    @staticmethod
    def spring():
        Trap.opened = True

    def __reduce__(self):
        return Trap.spring, ()


def test_read_unpickles_nothing(tmp_path, monkeypatch):
    path = tmp_path / "my.model"
    path.write_bytes(pickle.dumps(Trap()))
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    monkeypatch.setattr(pickle, "load", lambda *_: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match=r"my\.model"):
        tc.CannonModel.read(path)
    assert not Trap.opened


def test_threads_neither_hang_nor_change_the_result(training, trained):
    started = time.monotonic()
    for threads in (1, 2, -1):
        model = training.model()
        theta, _, _ = model.train(threads=threads)
        assert_allclose(theta, trained.theta, atol=1e-10)
        labels, _, _ = model.test(training.flux[:8], training.ivar[:8], threads=threads)
        assert_allclose(labels, trained.test(training.flux[:8], training.ivar[:8])[0], rtol=1e-9)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("method", [None, "l_bfgs_b", "powell"])
def test_training_works_with_the_installed_scipy_and_numpy(training, trained, method):
    """The original breaks on SciPy 1.18, and its Powell on NumPy 2.5. Warnings are errors here."""
    ivar = np.where(np.arange(60) < 2, training.ivar, 0.0) if method else training.ivar
    theta, s2, _ = tc.CannonModel(training.labels, training.flux, ivar, QUADRATIC).train(op_method=method)
    assert_allclose(theta[:2], trained.theta[:2], atol=1e-5)
    assert_allclose(s2[:2], trained.s2[:2], rtol=1e-3, atol=1e-9)


def test_hull_of_seventeen_labels():
    """A triangulation takes 44 s in six dimensions, and more memory than there is in seventeen."""
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(400, 17))
    model = tc.CannonModel(labels, None, None, PolynomialVectorizer([f"L{k}" for k in range(17)], 1))
    started = time.monotonic()
    mean = rng.dirichlet(np.ones(400), 3) @ labels
    assert model.in_convex_hull(np.vstack([mean, 2 * labels[:3]])).tolist() == [True] * 3 + [False] * 3
    assert time.monotonic() - started < 10


IMPORT = """
import importlib, logging, pkgutil, warnings
import astropy.table, click, h5netcdf, jax, numpy, numpyro.infer, scipy.optimize, tqdm, xarray

def outside():
    loggers = {name: (list(getattr(log, "handlers", [])), log.level, log.propagate)
               for name, log in logging.root.manager.loggerDict.items() if isinstance(log, logging.Logger)}
    return (list(logging.root.handlers), logging.root.level, list(warnings.filters), dict(numpy.geterr()),
            jax.config.jax_enable_x64, dict(jax.config.values), loggers)

before = outside()
import bayes_cannon
for name in (*bayes_cannon.__all__, "io.model_file", "model.files"):
    getattr(bayes_cannon, name) if name.isidentifier() else importlib.import_module("bayes_cannon." + name)
after = outside()
for a, b in zip(before[:-1], after[:-1]):
    assert a == b, (a, b)
for name, state in before[-1].items():
    assert after[-1][name] == state, name
own = {name: state for name, state in after[-1].items() if name.startswith("bayes_cannon")}
nothing = [(name, handler) for name, (handlers, _, _) in own.items() for handler in handlers]
assert [(name, type(handler)) for name, handler in nothing] == [("bayes_cannon", logging.NullHandler)], own
"""


def test_importing_changes_nothing_outside_the_package():
    """No log handler that writes, no warning silenced, no flag set: the process is as it was before."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_covariance_is_symmetric_and_positive(training, trained):
    """Astra's is not symmetric."""
    _, covariance, _ = trained.test(training.flux, training.ivar)
    assert_array_equal(covariance, covariance.swapaxes(1, 2))
    unit = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert (np.linalg.eigvalsh(covariance / (unit[:, :, None] * unit[:, None, :])) > 0).all()


def test_the_scalar_that_is_reported_holds_the_log_determinant(training, trained):
    """Astra chooses Lambda by chi^2 alone, which any s2 that is too large improves."""
    w = 1 / (1 / training.ivar + trained.s2)
    chi_squared = (w * (training.flux - trained.design_matrix @ trained.theta.T) ** 2).sum(axis=0)
    assert_allclose(trained.certificates["objective"], chi_squared - np.log(w).sum(axis=0), rtol=1e-12)
    inflated = [
        training_scalar(
            trained.theta[j], 9 * trained.s2[j] + 1e-4, design=trained.design_matrix, flux=training.flux[:, j],
            ivar=training.ivar[:, j], regularization=0.0,
        )
        for j in range(60)
    ]  # fmt: skip
    assert (inflated > trained.certificates["objective"]).all()


def test_training_has_more_than_one_start(training):
    """Pollux has one, cold. Wherever training starts from, it ends at the same scalar."""
    problem = training.problem(300.0)
    rng = np.random.default_rng(0)
    ends = [
        profile.solve(problem, theta=theta).objective
        for theta in (None, rng.normal(size=(60, 10)), 100 * rng.normal(size=(60, 10)))
    ]
    assert_allclose(ends[1], ends[0], rtol=1e-11)
    assert_allclose(ends[2], ends[0], rtol=1e-11)


def test_the_test_step_has_more_than_one_start():
    """Pollux has one, cold. A flux that folds back in the label has two minima, and the better is found from either."""
    labels = np.linspace(-1, 1, 200)[:, None]
    vectorizer = PolynomialVectorizer(("A",), 3)
    theta = np.column_stack([np.ones(60), np.linspace(-0.02, 0.02, 60), np.full(60, 0.3), np.linspace(0.02, -0.02, 60)])
    model = tc.CannonModel(labels, None, None, vectorizer, dispersion=np.arange(60.0))
    model.use_theta(theta, np.zeros(60))
    for start in (None, [[0.9]], [[-0.9]]):
        found, _, _ = model.test(model(labels[::25]), np.full((8, 60), 1e6), initial_labels=start)
        assert_allclose(found, labels[::25], atol=1e-4)


def test_there_is_a_penalty_and_its_zeros_are_exact(training):
    """Pollux has no L1."""
    model = training.model(regularization=1000.0)
    theta, _, _ = model.train()
    assert 0.1 < (theta[:, 1:] == 0).mean() < 0.95
    assert (theta[:, 0] != 0).all()


def test_nan_flux_poisons_nothing(training, trained):
    """Pollux loses every pixel and every star to one NaN."""
    flux, ivar = training.flux.copy(), training.ivar.copy()
    flux[3, 4], ivar[3, 4] = np.nan, 0.0
    model = tc.CannonModel(training.labels, flux, ivar, QUADRATIC)
    theta, s2, _ = model.train()
    others = np.arange(60) != 4
    assert_allclose(theta[others], trained.theta[others], atol=1e-9)
    assert_allclose(s2[others], trained.s2[others], rtol=1e-7, atol=1e-13)
    assert np.isfinite(theta[4]).all()
    labels, covariance, _ = model.test(flux[:8], ivar[:8])
    assert np.isfinite(labels).all()
    assert np.isfinite(covariance).all()


def test_errors_cover_the_truth_where_the_model_is_right(training, trained):
    """No existing code looks. With theta from 200 stars, and noise as stated, about 68 % lie within one error."""
    labels, covariance, _ = trained.test(training.flux, training.ivar)
    pull = (labels - training.labels) / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    inside = (np.abs(pull) < 1).mean(axis=0)
    error = np.sqrt(0.683 * 0.317 / 200)
    assert (np.abs(inside - 0.683) < 4 * error).all()
