"""`CannonModel`: what it holds, the symmetries of its results, and that failures leave it as it was."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.core.status import PixelStatus, StarStatus
from bayes_cannon.model import CannonModel, NotTrainedError, TrainingWarning
from bayes_cannon.vectorizer import PolynomialVectorizer

NAMES = ("TEFF", "LOGG", "FE_H")
QUADRATIC = PolynomialVectorizer(NAMES, 2)
SIX = slice(0, 6)


def objective(metadata):
    return np.array([record["fopt"] for record in metadata])


def fit(labels, flux, ivar, **kwargs):
    model = CannonModel(labels, flux, ivar, QUADRATIC, **kwargs)
    return model, *model.train()


# What it holds.


def test_attributes(training, trained):
    assert_array_equal(trained.training_set_labels, training.labels)
    assert_array_equal(trained.training_set_flux, training.flux)
    assert_array_equal(trained.training_set_ivar, training.ivar)
    assert_array_equal(trained.dispersion, training.dispersion)
    assert trained.design_matrix.shape == (200, 10)
    assert_array_equal(trained.design_matrix[:, 0], 1)
    assert trained.theta.shape == (60, 10)
    assert trained.s2.shape == (60,)
    assert trained.theta.dtype == trained.s2.dtype == np.float64
    assert trained.vectorizer == training.vectorizer
    assert trained.label_names == NAMES
    assert trained.n_pixels == 60
    assert trained.regularization is None
    assert trained.censors == {}
    assert trained.is_trained
    assert set(trained.certificates) == {
        "objective",
        "duality_gap",
        "profile_gradient",
        "iterations",
        "status",
        "n_minima",
        "margin",
    }


def test_printed(training, trained):
    text = "<CannonModel of 3 labels with a training set of 200 stars each with 60 pixels>"
    assert str(trained) == text
    assert repr(trained) == text[:-1] + ", trained>"
    assert repr(training.model()) == text[:-1] + ", not trained>"
    assert str(CannonModel(training.labels, None, None, QUADRATIC)).count("an unknown number of pixels") == 1


def test_reset(training):
    model = training.model()
    assert not model.is_trained
    assert model.theta is model.s2 is model.certificates is None
    model.train()
    assert model.is_trained
    model.reset()
    assert not model.is_trained
    assert model.theta is model.s2 is model.certificates is None


def test_labels_may_be_a_table_with_units(training):
    table = Table(dict(zip(NAMES, training.labels.T, strict=True)), units={"TEFF": "K"})
    table = table["FE_H", "LOGG", "TEFF"]
    table["OTHER"] = 1.0
    model = CannonModel(table, training.flux, training.ivar, QUADRATIC)
    assert_array_equal(model.training_set_labels, training.labels)
    assert model.label_units == {"TEFF": "K"}
    model = CannonModel(table, training.flux, training.ivar, QUADRATIC, label_units={"LOGG": "dex"})
    assert model.label_units == {"TEFF": "K", "LOGG": "dex"}
    with pytest.raises(ValueError, match="label_units names VSINI; the labels are TEFF, LOGG, FE_H"):
        CannonModel(table, training.flux, training.ivar, QUADRATIC, label_units={"VSINI": "km/s"})


def test_a_model_may_have_no_spectra(training):
    model = CannonModel(training.labels, None, None, QUADRATIC, dispersion=training.dispersion)
    assert model.training_set_flux is model.training_set_ivar is None
    assert model.n_pixels == 60
    with pytest.raises(TypeError, match=r"no training spectra.*include_training_set_spectra=True"):
        model.train()


def test_input_is_not_changed_and_may_be_read_only(training):
    before = training.flux.copy(), training.ivar.copy(), training.labels.copy()
    training.model(regularization=10.0).train()
    for array, kept in zip((training.flux, training.ivar, training.labels), before, strict=True):
        assert_array_equal(array, kept)


def test_integers_and_single_precision_are_welcome(training):
    _, theta, _, _ = fit(training.labels.astype("f4"), training.flux.astype(">f4"), training.ivar.astype("f4"))
    assert theta.dtype == np.float64
    assert_allclose(theta, fit(training.labels, training.flux, training.ivar)[1], atol=1e-4)
    ones = fit(training.labels.astype(int) + training.model().scaling.scaled(training.labels), training.flux,
               np.full(training.flux.shape, 10000))[0]  # fmt: skip
    assert ones.is_trained


# The results have the symmetries of the problem.


@settings(max_examples=5)
@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3), st.floats(-100, 100))
def test_units_of_the_labels_do_not_matter(training, trained, units, zero):
    other, theta, s2, _ = fit(training.labels * units + zero, training.flux, training.ivar)
    assert_allclose(theta, trained.theta, atol=1e-8)
    assert_allclose(s2, trained.s2, rtol=1e-6, atol=1e-12)
    labels, covariance, _ = trained.test(training.flux[:8], training.ivar[:8])
    moved, moved_covariance, _ = other.test(training.flux[:8], training.ivar[:8])
    assert_allclose((moved - zero) / units, labels, rtol=1e-4, atol=1e-4)
    assert_allclose(moved_covariance / np.outer(units, units), covariance, rtol=1e-4)


@settings(max_examples=5)
@given(st.floats(1e-3, 1e3), st.sampled_from([0.0, 100.0]))
def test_scaling_the_flux_scales_theta(training, factor, regularization):
    _, theta, s2, metadata = fit(training.labels, training.flux, training.ivar, regularization=regularization)
    _, scaled, scaled_s2, scaled_metadata = fit(
        training.labels, factor * training.flux, training.ivar / factor**2, regularization=regularization / factor
    )
    assert_allclose(scaled / factor, theta, atol=1e-7)
    assert_allclose(scaled_s2 / factor**2, s2, rtol=1e-5, atol=1e-11)
    shift = 2 * 200 * np.log(factor)
    assert_allclose(objective(scaled_metadata) - shift, objective(metadata), rtol=1e-9)


def test_order_of_the_stars_does_not_matter(training):
    order = np.random.default_rng(0).permutation(200)
    for regularization in (None, 100.0):
        _, theta, s2, metadata = fit(training.labels, training.flux, training.ivar, regularization=regularization)
        _, other, other_s2, other_metadata = fit(
            training.labels[order], training.flux[order], training.ivar[order], regularization=regularization
        )
        assert_allclose(other, theta, atol=1e-8)
        assert_allclose(other_s2, s2, rtol=1e-6, atol=1e-13)
        assert_allclose(objective(other_metadata), objective(metadata), rtol=1e-12)


def test_order_of_the_labels_and_pixels_does_not_matter(training):
    regularization = np.geomspace(1, 1000, 60)
    model = training.model(regularization=regularization)
    theta, s2, metadata = model.train()
    names, pixels = ("FE_H", "TEFF", "LOGG"), np.random.default_rng(1).permutation(60)
    other = CannonModel(
        training.labels[:, [2, 0, 1]], training.flux[:, pixels], training.ivar[:, pixels],
        PolynomialVectorizer(names, 2), regularization=regularization[pixels],
    )  # fmt: skip
    moved, moved_s2, moved_metadata = other.train()
    term = [model.vectorizer.term_index(text) for text in other.vectorizer.readable_terms]
    assert sorted(term) == list(range(10))
    assert_allclose(moved, theta[pixels][:, term], atol=1e-8)
    assert_allclose(moved_s2, s2[pixels], rtol=1e-6, atol=1e-13)
    assert_allclose(objective(moved_metadata), objective(metadata)[pixels], rtol=1e-12)
    labels = model.test(training.flux[:8], training.ivar[:8])[0]
    moved_labels = other.test(training.flux[:8, pixels], training.ivar[:8, pixels])[0]
    assert_allclose(moved_labels, labels[:, [2, 0, 1]], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_flux_without_weight_never_matters(training, value):
    """NaN where ivar = 0, in training and in the test step."""
    rng = np.random.default_rng(2)
    ivar = np.where(rng.random(training.ivar.shape) < 0.2, 0.0, training.ivar)
    clean, theta, s2, metadata = fit(training.labels, training.flux, ivar)
    dirty_flux = np.where(ivar > 0, training.flux, value)
    dirty, dirty_theta, dirty_s2, dirty_metadata = fit(training.labels, dirty_flux, ivar)
    assert_array_equal(dirty_theta, theta)
    assert_array_equal(dirty_s2, s2)
    assert_array_equal(objective(dirty_metadata), objective(metadata))
    for a, b in zip(clean.test(training.flux[:8], ivar[:8])[:2], dirty.test(dirty_flux[:8], ivar[:8])[:2], strict=True):
        assert_array_equal(a, b)


def test_star_without_weight_is_as_good_as_dropped(training, brute_force):
    """The labels stay, so that the label scaling is the same."""
    gone = np.arange(200) >= 150
    ivar = np.where(gone[:, None], 0.0, training.ivar)
    for regularization in (0.0, 100.0):
        model, theta, s2, metadata = fit(training.labels, training.flux, ivar, regularization=regularization)
        problem = replace(training.problem(regularization), terms=model._problem().terms)
        dropped = problem.of_stars(~gone)
        for j in (0, 1):
            best, best_theta, best_s2 = brute_force(dropped, j)
            assert_allclose(metadata[j]["fopt"], best, rtol=1e-9)
            assert_allclose(theta[j], best_theta, atol=1e-6)
            assert_allclose(s2[j], best_s2, rtol=1e-4, atol=1e-10)


def test_scale_factor_changes_theta_but_not_the_model(training, trained):
    other = training.model(scale_factor=2.0)
    theta, s2, metadata = other.train()
    degree = QUADRATIC.exponents.sum(axis=1)
    assert_allclose(theta, trained.theta * 2.0**degree, atol=1e-7)
    assert_allclose(s2, trained.s2, rtol=1e-6, atol=1e-13)
    assert_allclose(objective(metadata), trained.certificates["objective"], rtol=1e-12)
    assert_allclose(other(training.labels[:8]), trained(training.labels[:8]), rtol=1e-9)
    for a, b in zip(other.test(training.flux[:8], training.ivar[:8])[:2],
                    trained.test(training.flux[:8], training.ivar[:8])[:2], strict=True):  # fmt: skip
        assert_allclose(a, b, rtol=1e-5, atol=1e-8)


# Censoring.


@pytest.mark.parametrize("regularization", [0.0, 100.0])
def test_censored_terms_are_zero_and_the_rest_is_the_model_without_the_labels(training, regularization):
    model = training.model(regularization=regularization)
    model.train()
    full = model.theta
    for name in ("LOGG", "FE_H"):
        model.censors[name] = tc.censoring.create_mask(model.dispersion, [(None, 16700), (16750, None)])
    theta, s2, metadata = model.train()
    censored = model.censors["FE_H"]
    contains = (QUADRATIC.exponents[:, 1:] > 0).any(axis=1)
    assert 0 < censored.sum() < 60
    assert (theta[np.ix_(censored, contains)] == 0).all()
    assert_allclose(theta[~censored], full[~censored], atol=1e-8)

    one = CannonModel(
        training.labels[:, :1], training.flux, training.ivar, PolynomialVectorizer(NAMES[:1], 2),
        regularization=regularization,
    )  # fmt: skip
    alone, alone_s2, alone_metadata = one.train()
    assert_allclose(theta[np.ix_(censored, ~contains)], alone[censored], atol=1e-7)
    assert_allclose(s2[censored], alone_s2[censored], rtol=1e-6, atol=1e-13)
    assert_allclose(objective(metadata)[censored], objective(alone_metadata)[censored], rtol=1e-11)
    assert max(record["duality_gap"] for record in metadata) < 1e-9


def test_censored_label_cannot_change_the_flux(training):
    mask = np.arange(60) < 20
    model = training.model(censors={"TEFF": mask})
    model.train()
    low, high = model(training.labels[0] - [300, 0, 0]), model(training.labels[0] + [300, 0, 0])
    assert_array_equal(low[mask], high[mask])
    assert (low[~mask] != high[~mask]).any()


def test_everything_censored_leaves_the_weighted_mean(training):
    model = training.model(censors=dict.fromkeys(NAMES, np.ones(60, bool)))
    theta, s2, _ = model.train()
    assert_array_equal(theta[:, 1:], 0)
    w = 1 / (1 / training.ivar + s2)
    assert_allclose(theta[:, 0], (w * training.flux).sum(axis=0) / w.sum(axis=0), rtol=1e-8)


def test_uncensoring_restores_the_model(training, trained):
    model = training.model(censors={"TEFF": np.ones(60, bool)})
    model.train()
    del model.censors["TEFF"]
    assert_allclose(model.train()[0], trained.theta, atol=1e-7)


# Training again, and being interrupted.


def test_training_again_starts_from_the_previous_theta_and_ends_at_the_same_optimum(training):
    model = training.model(regularization=100.0)
    _, _, first = model.train()
    theta = model.theta.copy()
    model.regularization = None
    model.train()
    model.regularization = 100.0
    again, _, second = model.train()
    assert_allclose(again, theta, atol=1e-8)
    assert_allclose(objective(second), objective(first), rtol=1e-12)


@pytest.mark.parametrize("method", [None, "l_bfgs_b"])
def test_interrupt_leaves_the_model_as_it_was(training, method):
    class Interrupt:
        def __init__(self):
            self.calls = 0

        def __call__(self, finished):
            self.calls += 1
            if finished > 0:
                raise KeyboardInterrupt

    model = training.model()
    model.train()
    theta, s2, certificates = model.theta, model.s2, model.certificates
    model.regularization = 1000.0
    interrupt = Interrupt()
    with pytest.raises(KeyboardInterrupt):
        model.train(op_method=method, progress=interrupt)
    assert interrupt.calls > 0
    assert model.theta is theta
    assert model.s2 is s2
    assert_array_equal(model.certificates["objective"], certificates["objective"])
    fresh = training.model()
    with pytest.raises(KeyboardInterrupt):
        fresh.train(op_method=method, progress=Interrupt())
    assert not fresh.is_trained


def test_unknown_method_and_keywords_leave_the_model_as_it_was(training):
    model = training.model()
    with pytest.raises(ValueError, match="did you mean 'l_bfgs_b'"):
        model.train(op_method="l_bfgsb")
    with pytest.raises(TypeError, match="op_kwds factr not known"):
        model.train(op_kwds={"factr": 1e7})
    assert not model.is_trained


def test_progress_counts_every_pixel_and_every_star(training, capsys):
    seen = []
    model = training.model()
    model.train(progress=seen.append)
    assert sum(seen) == 60
    stars = []
    model.test(training.flux[:8], training.ivar[:8], progress=stars.append)
    assert sum(stars) == 8
    assert capsys.readouterr() == ("", "")
    model.train(progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "60/60" in captured.err


def test_old_arguments_are_accepted(training, trained):
    model = training.model()
    model.train(1, None, False, None)
    assert_array_equal(model.train(threads=4, op_strict=True)[0].shape, (60, 10))
    labels, _, _ = model.test(training.flux[:8], training.ivar[:8], None, 4, False, {"xtol": 1e-6, "maxfev": 100})
    assert_allclose(labels, trained.test(training.flux[:8], training.ivar[:8])[0], rtol=1e-6)
    with pytest.raises(ValueError, match="unknown op_kwds factr; known are ftol"):
        model.test(training.flux[:8], training.ivar[:8], op_kwds={"factr": 1})


def test_degrees_of_freedom_correction(training, trained):
    model = training.model()
    theta, s2, metadata = model.train(dof_correction=True)
    assert_allclose(theta, trained.theta, atol=1e-9)
    assert (s2 >= trained.s2).all()
    assert (s2 > trained.s2 * 1.02).any()
    assert_allclose(objective(metadata), trained.certificates["objective"], rtol=1e-12)


# Pixels without a solution.


def test_pixels_without_a_solution_are_skipped_everywhere(training, trained):
    ivar = training.ivar.copy()
    ivar[:, 0] = 0
    ivar[5:, 9] = 0
    model = CannonModel(training.labels, training.flux, ivar, QUADRATIC)
    with pytest.warns(TrainingWarning, match=r"1 of 60 pixels, the first is pixel 9: fewer stars.*add stars"):
        theta, s2, metadata = model.train()
    lost = [0, 9]
    assert np.isnan(theta[lost]).all()
    assert np.isposinf(s2[lost]).all()
    statuses = [metadata[j]["status"] for j in lost]
    assert statuses == [PixelStatus.NO_INFORMATION, PixelStatus.TOO_FEW_STARS]
    assert np.isnan(model(training.labels[0])[lost]).all()
    kept = np.setdiff1d(np.arange(60), lost)
    assert_allclose(theta[kept], trained.theta[kept], atol=1e-8)
    assert np.isfinite(model(training.labels[0])[kept]).all()

    masked = np.where(np.isin(np.arange(60), lost), 0.0, training.ivar[:8])
    for flux_there in (training.flux[:8], np.where(np.isin(np.arange(60), lost), -5.0, training.flux[:8])):
        labels, covariance, records = model.test(flux_there, training.ivar[:8])
        expected, expected_covariance, _ = trained.test(training.flux[:8], masked)
        assert_allclose(labels, expected, rtol=1e-6)
        assert_allclose(covariance, expected_covariance, rtol=1e-5)
        assert all(record["n_pixels"] == 58 for record in records)
    again, _, _ = training.model().train()
    assert np.isfinite(again).all()


def test_pixel_that_lost_its_solution_gets_it_back(training):
    """NaN of a former training is no start."""
    ivar = training.ivar.copy()
    ivar[:, :2] = 0
    model = CannonModel(training.labels, training.flux, ivar, QUADRATIC)
    model.train()
    assert np.isnan(model.theta[:2]).all()
    full = training.model()
    full.use_theta(model.theta, model.s2)
    theta, s2, _ = full.train()
    assert np.isfinite(theta).all()
    assert np.isfinite(s2).all()


def test_regularization_can_be_changed_and_none_is_zero(training, trained):
    model = training.model(regularization=1000.0)
    model.train()
    assert (model.theta == 0).any()
    model.regularization = 0
    assert_allclose(model.train()[0], trained.theta, atol=1e-7)
    per_pixel = np.where(np.arange(60) < 30, 0.0, 1e7)
    model.regularization = per_pixel
    theta, _, _ = model.train()
    assert_allclose(theta[:30], trained.theta[:30], atol=1e-7)
    assert_array_equal(theta[30:, 1:], 0)
    per_pixel[:] = -1
    assert (model.regularization >= 0).all()


# Prediction and the test step.


def test_flux_of_labels(training, trained):
    flux = trained(training.labels)
    assert flux.shape == (200, 60)
    assert_allclose(flux, trained.design_matrix @ trained.theta.T, rtol=1e-12)
    assert_allclose(trained(training.labels[3]), flux[3], rtol=1e-12)
    assert trained(training.labels[3]).shape == (60,)
    with pytest.raises(ValueError, match=r"labels must have shape \(star, 3\) for TEFF, LOGG, FE_H; got shape \(2,\)"):
        trained([5000, 2.5])


def test_labels_are_recovered_within_their_errors(training, trained):
    labels, covariance, metadata = trained.test(training.flux, training.ivar)
    assert labels.shape == (200, 3)
    assert covariance.shape == (200, 3, 3)
    pull = (labels - training.labels) / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert np.all(np.abs(pull.std(axis=0) - 1) < 0.25)
    assert np.all(np.abs(pull.mean(axis=0)) < 0.25)
    assert_allclose(covariance, covariance.swapaxes(1, 2))
    assert (np.linalg.eigvalsh(covariance / np.outer([1e2, 0.1, 0.1], [1e2, 0.1, 0.1])) > 0).all()
    chi_squared = np.array([record["chi_sq"] for record in metadata])
    w = 1 / (1 / training.ivar + trained.s2)
    assert_allclose(chi_squared, (w * (training.flux - trained(labels)) ** 2).sum(axis=1), rtol=1e-9)
    assert abs(np.mean([record["r_chi_sq"] for record in metadata]) - 1) < 0.1


def test_record_of_a_star(training, trained):
    labels, _, metadata = trained.test(training.flux[:8], training.ivar[:8])
    record = metadata[2]
    assert record["status"] in (StarStatus.CONVERGED, StarStatus.OUTSIDE_TRAINING_SET)
    assert record["message"] == record["status"].message
    assert record["n_pixels"] == 60
    assert_allclose(record["r_chi_sq"], record["chi_sq"] / 57)
    assert_allclose(record["snr"], np.median(np.sqrt(training.ivar[2])), rtol=1e-6)
    assert_allclose(record["model_flux"], trained(labels[2]), rtol=1e-12)
    assert record["label_names"] == NAMES
    with pytest.raises(KeyError):
        record["nothing"]


def test_one_spectrum_is_one_star(training, trained):
    labels, covariance, metadata = trained.test(training.flux[0], training.ivar[0])
    assert labels.shape == (1, 3)
    assert covariance.shape == (1, 3, 3)
    assert len(metadata) == 1
    assert_allclose(labels, trained.test(training.flux[:8], training.ivar[:8])[0][:1], rtol=1e-9)
    with pytest.raises(ValueError, match=r"shape \(star, 60\).*got \(1, 60\) and \(1, 59\)"):
        trained.test(training.flux[0], training.ivar[0, 1:])


def test_convex_hull(training, trained):
    inside = trained.in_convex_hull(training.labels[:8])
    assert inside.all()
    assert trained.in_convex_hull(training.labels.mean(axis=0)).tolist() == [True]
    corner = training.labels.max(axis=0)
    assert (
        trained.in_convex_hull(np.vstack([corner, corner + np.array([0, 0, 5]), [5000, np.nan, 0]])).tolist()
        == [False] * 3
    )


def test_not_trained(training):
    model = training.model()
    for use in (lambda: model(training.labels[0]), lambda: model.test(training.flux, training.ivar)):
        with pytest.raises(NotTrainedError, match=r"not trained: call train\(\) first"):
            use()


# Saved and loaded.


def test_saved_and_loaded(training, tmp_path):
    model = training.model(
        regularization=np.geomspace(1, 1000, 60), censors={"FE_H": np.arange(60) < 9}, scale_factor=2,
        label_units={"TEFF": "K"},
    )  # fmt: skip
    model.train()
    model.write(tmp_path / "my.model", include_training_set_spectra=True)
    back = CannonModel.read(tmp_path / "my.model")
    assert type(back) is CannonModel
    for name in ("theta", "s2", "dispersion", "regularization", "training_set_labels", "training_set_flux",
                 "training_set_ivar", "design_matrix"):  # fmt: skip
        assert_array_equal(getattr(back, name), getattr(model, name))
    assert back.vectorizer == model.vectorizer
    assert back.label_units == model.label_units
    assert_array_equal(back.censors["FE_H"], model.censors["FE_H"])
    assert str(back) == str(model)
    for name, array in model.certificates.items():
        assert_array_equal(back.certificates[name], array)
    for a, b in zip(back.test(training.flux[:8], training.ivar[:8])[:2],
                    model.test(training.flux[:8], training.ivar[:8])[:2], strict=True):  # fmt: skip
        assert_array_equal(a, b)
    assert_allclose(back.train()[0], model.theta, atol=1e-9)
    assert tc.load_model(tmp_path / "my.model").is_trained


def test_saved_without_spectra_it_labels_but_does_not_train(training, trained, tmp_path):
    trained.write(tmp_path / "my.model")
    back = CannonModel.read(tmp_path / "my.model")
    assert back.training_set_flux is None
    assert back.n_pixels == 60
    assert_array_equal(back(training.labels), trained(training.labels))
    with pytest.raises(TypeError, match="no training spectra"):
        back.train()
    with pytest.raises(FileExistsError, match="overwrite"):
        trained.write(tmp_path / "my.model")
    trained.write(tmp_path / "my.model", overwrite=True)
    with pytest.warns(TrainingWarning, match="not trained and its training spectra are not written"):
        training.model().write(tmp_path / "empty.model")


def test_spectra_in_a_stream_get_the_labels_of_the_whole(training, trained):
    whole = trained.fit_labels(training.flux, training.ivar)
    batches = ((training.flux[part], training.ivar[part]) for part in (slice(0, 70), slice(70, 200)))
    parts = list(trained.fit_label_stream(batches))
    assert [len(part.labels) for part in parts] == [70, 130]
    assert_allclose(np.concatenate([part.labels for part in parts]), whole.labels, rtol=1e-9)
