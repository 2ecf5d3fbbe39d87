"""Local models and labels under a prior: against `sample_labels`, closed forms, and each other."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import bayes_cannon as tc
from bayes_cannon.core.status import StarStatus
from bayes_cannon.vectorizer import PolynomialVectorizer

NAMES = ("TEFF", "LOGG")
N_PIXELS = 24


class Survey:
    """Spectra of two labels, of known noise. With branches giants and dwarfs have a response of their own."""

    def __init__(self, n_stars: int, *, branches: bool = False, seed: int = 0, noise: float = 0.01):
        rng, fixed = np.random.default_rng(seed), np.random.default_rng(1)
        if branches:
            giant = rng.random(n_stars) < 0.5
            centre = np.where(giant[:, None], [4600, 2.0], [5800, 4.4])
            self.labels = centre + rng.normal(size=(n_stars, 2)) * [180, 0.2]
        else:
            giant = np.ones(n_stars, bool)
            self.labels = rng.normal([5000, 3.0], [300, 0.5], (n_stars, 2))
        x = (self.labels - [5000, 3.0]) / [600, 1.0]
        slopes = fixed.normal(0, 0.04, (2, 2, N_PIXELS))
        middle = np.array([[-0.67, -1.0], [1.3, 1.4]])
        bases = 1 + fixed.normal(0, 0.05, (2, N_PIXELS))
        parts = [bases[k] + (x - middle[k]) @ slopes[k] for k in range(2)] if branches else [1 + x @ slopes[0]] * 2
        self.model = np.where(giant[:, None], *parts)
        self.flux = self.model + noise * rng.normal(size=self.model.shape)
        self.ivar = np.full(self.flux.shape, 1 / noise**2)

    def local(self, **settings) -> tc.LocalCannonModel:
        return tc.LocalCannonModel(self.labels, self.flux, self.ivar, NAMES, rho_warning=0.99, **settings)

    def one(self, order: int = 1, **settings) -> tc.CannonModel:
        return tc.CannonModel(self.labels, self.flux, self.ivar, PolynomialVectorizer(NAMES, order), **settings)


def errors_of(fit) -> np.ndarray:
    return np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))


@pytest.fixture(scope="module")
def survey():
    return Survey(200)


@pytest.fixture(scope="module")
def others():
    return Survey(120, seed=5)


@pytest.fixture(scope="module")
def local(survey):
    model = survey.local(partitions=[(1, 1)])
    model.train()
    return model


@pytest.fixture(scope="module")
def plain(survey):
    model = survey.one()
    model.train()
    return model


def test_gaussian_prior_of_a_linear_model_is_exact(plain, survey, others):
    fit = plain.fit_labels(others.flux, others.ivar, prior="gaussian")
    theta, unit = plain.theta, plain.scaling.factor * plain.scaling.scale
    w = 1 / (1 / others.ivar[0] + plain.s2)
    information = (theta[:, 1:].T * w) @ theta[:, 1:] / np.outer(unit, unit)
    precision = np.linalg.inv(np.cov(survey.labels.T))
    covariance = np.linalg.inv(information + precision)
    at_zero = theta[:, 0] - theta[:, 1:] @ (plain.scaling.fiducial / unit)
    right = (others.flux - at_zero) * w @ (theta[:, 1:] / unit) + precision @ survey.labels.mean(axis=0)
    error = np.sqrt(np.diagonal(covariance))
    assert_allclose(fit.labels / error, right @ covariance / error, rtol=0, atol=0.1)
    assert_allclose(errors_of(fit), np.tile(error, (120, 1)), rtol=0.1)
    assert_allclose(fit.formal_covariance, fit.covariance)
    assert (fit.efficiency > 0.4).all()
    assert_allclose(fit.likelihood_labels, plain.fit_labels(others.flux, others.ivar).labels, rtol=1e-9)


def test_one_region_is_the_model_with_its_population_as_a_prior(local, plain, others):
    import numpyro.distributions as dist

    population = local._result.partitions[0].regions[0].population
    prior = dist.MixtureSameFamily(
        dist.Categorical(probs=population.weights),
        dist.MultivariateNormal(population.means, population.covariances),
    )
    found, one = local.fit_labels(others.flux, others.ivar), plain.fit_labels(others.flux, others.ivar, prior=prior)
    assert_allclose(found.region_weights, 1.0)
    assert_allclose(found.labels / errors_of(one), one.labels / errors_of(one), rtol=0, atol=0.2)
    assert_allclose(errors_of(found), errors_of(one), rtol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("integrated", [False, True], ids=["theta known", "theta integrated out"])
def test_gaussian_prior_is_that_of_the_draws(integrated):
    few, new = Survey(40, seed=2, noise=0.03), Survey(6, seed=6, noise=0.03)
    model = few.one()
    model.train()
    if integrated:
        model.sample(method="psis", key=0)
        model.integrate_theta = True
    fit = model.fit_labels(new.flux, new.ivar, prior="gaussian")
    drawn = model.sample_labels(new.flux, new.ivar, prior="gaussian", key=1)["posterior"]
    draws = drawn["labels"].transpose("chain", "draw", "star", "label_name").to_numpy()
    draws = draws.reshape(-1, 6, 2)
    mean, error = draws.mean(axis=0), draws.std(axis=0)
    assert_allclose(fit.labels / error, mean / error, rtol=0, atol=0.1)
    assert_allclose(errors_of(fit), error, rtol=0.1)


@pytest.fixture(scope="module")
def branches():
    survey = Survey(300, branches=True)
    model = survey.local(partitions=[(2, 1)])
    model.train()
    return survey, model


def test_regions_describe_what_one_polynomial_does_not(branches):
    survey, model = branches
    new = Survey(200, branches=True, seed=7)
    one = survey.local(partitions=[(1, 1)])
    one.train()
    found, single = model.fit_labels(new.flux, new.ivar), one.fit_labels(new.flux, new.ivar)
    rms = [np.sqrt(np.mean((fit.labels - new.labels) ** 2, axis=0)) for fit in (found, single)]
    assert (rms[0] < 0.6 * rms[1]).all()
    sure = found.region_weights.max(axis=1)
    assert np.median(sure) > 0.99
    assert_allclose(found.region_weights.sum(axis=1), 1.0)
    giants = new.labels[:, 1] < 3.2
    of_giants = np.argmax(found.region_weights[giants].mean(axis=0))
    assert (found.region_weights[giants, of_giants] > 0.5).mean() > 0.8
    assert (found.region_weights[~giants, of_giants] < 0.5).mean() > 0.8


@pytest.mark.parametrize("scatter", [None, tc.scatter.Full(heavy_tails=True)], ids=["independent", "full"])
def test_errors_are_those_of_a_simulation(scatter):
    survey, new = Survey(800, seed=4), Survey(600, seed=9)
    model = survey.local(partitions=[(1, 1)], scatter=scatter)
    model.train()
    fit = model.fit_labels(new.flux, new.ivar)
    pulls = (fit.labels - new.labels) / errors_of(fit)
    assert_allclose(pulls.mean(axis=0), 0.0, rtol=0, atol=0.25)  # Of theta's errors all stars have the same.
    # The width has an error of 1 / sqrt(1200), three per cent; theta taken as known and a covariance add a few.
    assert_allclose(pulls.std(axis=0), 1.0, rtol=0, atol=0.13)


FAMILIES = [
    tc.scatter.LowRank(1), tc.scatter.LowRank(1, heavy_tails=True), tc.scatter.Full(),
    tc.scatter.Given(np.diag(np.full(N_PIXELS, 1e-4)) + 1e-5),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("scatter", FAMILIES, ids=["low rank", "heavy tails", "full", "given"])
def test_any_family_gives_labels(scatter):
    survey, new = Survey(300, branches=True), Survey(60, branches=True, seed=3)
    model = survey.local(partitions=[(2, 1)], scatter=scatter)
    model.train()
    fit = model.fit_labels(new.flux, new.ivar)
    off = (fit.labels - new.labels) / errors_of(fit)
    assert np.sqrt(np.mean(off**2)) < 1.6
    assert (errors_of(fit) < np.std(survey.labels, axis=0)).all()


def test_file_holds_the_model_bit_for_bit(branches, tmp_path):
    _, model = branches
    new = Survey(20, branches=True, seed=8)
    model.write(tmp_path / "local.model")
    again = tc.LocalCannonModel.read(tmp_path / "local.model")
    assert again == model
    assert again.partitions == [(2, 1)]
    one, two = (each.fit_labels(new.flux, new.ivar) for each in (model, again))
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.covariance, two.covariance)
    with pytest.raises(ValueError, match="LocalCannonModel"):
        tc.CannonModel.read(tmp_path / "local.model")
    for call in (again.train, again.calibrate):
        with pytest.raises(TypeError, match="no training spectra"):
            call()


def test_file_of_one_model_is_named(plain, tmp_path):
    plain.write(tmp_path / "one.model")
    with pytest.raises(ValueError, match="holds one model"):
        tc.LocalCannonModel.read(tmp_path / "one.model")


def test_file_without_spectra_cannot_choose_partitions(survey, tmp_path):
    model = survey.local(partitions=[(1, 1)])
    model.train()
    model.write(tmp_path / "local.model")
    stored = tc.LocalCannonModel.read(tmp_path / "local.model")
    stored._settings = survey.local()._settings
    with pytest.raises(TypeError, match="no training spectra"):
        stored.train()


def test_streams_equal_the_whole(local, plain, others):
    whole = local.fit_labels(others.flux, others.ivar)
    pairs = [(others.flux[rows], others.ivar[rows]) for rows in (slice(0, 50), slice(50, 120))]
    parts = list(local.fit_label_stream(iter(pairs)))
    assert_allclose(np.concatenate([part.labels for part in parts]), whole.labels, rtol=1e-9)
    whole = plain.fit_labels(others.flux, others.ivar, prior="gaussian")
    parts = list(plain.fit_label_stream(iter(pairs), prior="gaussian"))
    assert_allclose(np.concatenate([part.labels for part in parts]), whole.labels, rtol=1e-9)


def test_records_say_what_the_posterior_is(local, plain, others):
    labels, covariance, records = local.test(others.flux[:5], others.ivar[:5])
    fit = local.fit_labels(others.flux[:5], others.ivar[:5])
    assert np.array_equal(labels, fit.labels)
    assert np.array_equal(covariance, fit.covariance)
    assert len(records) == 5
    for n, record in enumerate(records):
        assert_allclose(record["likelihood_labels"], fit.likelihood_labels[n])
        assert record["log_evidence"] == fit.log_evidence[n]
        assert_allclose(record["region_weights"], [1.0])
    labels, covariance, _ = plain.test(others.flux[:5], others.ivar[:5], prior="gaussian")
    assert_allclose(labels, plain.fit_labels(others.flux[:5], others.ivar[:5], prior="gaussian").labels, rtol=1e-12)


def test_star_without_a_spectrum_has_no_labels(local, others):
    ivar = others.ivar[:4].copy()
    ivar[1] = 0.0
    fit = local.fit_labels(others.flux[:4], ivar)
    assert fit.status[1] == StarStatus.NO_INFORMATION
    assert np.isnan(fit.labels[1]).all()
    assert np.isnan(fit.covariance[1]).all()
    assert np.isnan(fit.log_evidence[1])
    assert np.isfinite(fit.labels[[0, 2, 3]]).all()


def test_no_stars(local):
    fit = local.fit_labels(np.zeros((0, N_PIXELS)), np.zeros((0, N_PIXELS)))
    assert fit.labels.shape == (0, 2)


def test_prior_that_excludes_the_labels_is_said(plain, others):
    import numpyro.distributions as dist

    away = dist.MultivariateNormal(np.array([7500.0, 3.0]), np.diag([50.0**2, 0.5**2]))
    fit = plain.fit_labels(others.flux[:10], others.ivar[:10], prior=away)
    assert (fit.status == StarStatus.AGAINST_PRIOR).all()
    beyond = dist.Uniform(np.array([7000.0, 0.0]), np.array([8000.0, 5.0])).to_event(1)
    fit = plain.fit_labels(others.flux[:10], others.ivar[:10], prior=beyond)
    assert (fit.status == StarStatus.AGAINST_PRIOR).all()


def test_labels_beyond_the_training_set_are_said(local, plain):
    flux = plain.predict_flux if hasattr(plain, "predict_flux") else plain
    far = np.array([[6900.0, 3.0], [5000.0, 3.0]])
    spectra = np.asarray(flux(far))
    fit = plain.fit_labels(spectra, np.full(spectra.shape, 1e6), prior="flat")
    assert fit.status.tolist() == [StarStatus.OUTSIDE_TRAINING_SET, StarStatus.CONVERGED]


@pytest.mark.slow
@pytest.mark.parametrize("n_stars", [110, 400])
def test_partitions_are_chosen_and_weighted(n_stars):
    survey, new = Survey(n_stars, branches=True), Survey(100, branches=True, seed=3)
    model = survey.local()
    model.train()
    assert_allclose(model.partition_weights.sum(), 1.0)
    assert len(model.partitions) == len(model.partition_weights)
    regions = sum(weight for (n, _), weight in zip(model.partitions, model.partition_weights, strict=True) if n > 1)
    if n_stars == 400:
        assert regions > 0.5
    fit = model.fit_labels(new.flux, new.ivar)
    assert_allclose(fit.region_weights.sum(axis=1), 1.0, rtol=1e-6)
    off = (fit.labels - new.labels) / errors_of(fit)
    assert np.sqrt(np.mean(off**2)) < 1.7
    calibration = model.calibrate()
    assert model.calibration is calibration
    calibrated = model.fit_labels(new.flux, new.ivar)
    assert_allclose(calibrated.labels, fit.labels)
    assert_allclose(calibrated.formal_covariance, fit.covariance)
    pulls = (calibrated.labels - new.labels) / errors_of(calibrated)
    assert 0.7 < np.sqrt(np.mean(pulls**2)) < 1.35


@pytest.mark.parametrize("partitions", ["other", [], 3, [(1,)], [(0, 2)], [(1, 2.5)], [("a", 1)], None])
def test_partitions_of_a_wrong_kind_are_named(survey, partitions):
    with pytest.raises((ValueError, TypeError), match=r"partitions|regions|order"):
        survey.local(partitions=partitions)


def test_bad_settings_are_named(survey):
    with pytest.raises(ValueError, match="regularization of local models"):
        survey.local(regularization=np.ones(N_PIXELS))
    with pytest.raises(ValueError, match="label_errors must have the shape"):
        survey.local(label_errors=np.ones(3))
    with pytest.raises(ValueError, match="label_errors"):
        survey.local(label_errors=-np.ones((200, 2)))
    with pytest.raises(TypeError, match="scatter must be"):
        survey.local(scatter="full")
    with pytest.raises(ValueError, match="seed"):
        survey.local(seed=-1)
    with pytest.raises(ValueError, match="TEFF"):
        tc.LocalCannonModel(survey.labels * [0, 1] + [5000, 0], survey.flux, survey.ivar, NAMES)


def test_regions_need_stars():
    few = Survey(14)
    with pytest.raises(ValueError, match="fewer regions or a lower order"):
        few.local(partitions=[(4, 2)]).train()


def test_untrained_models_and_wrong_wavelengths_are_named(survey, others):
    untrained = survey.local(partitions=[(1, 1)], dispersion=np.linspace(5000, 5100, N_PIXELS))
    with pytest.raises(tc.model.cannon.NotTrainedError, match="train"):
        untrained.fit_labels(others.flux, others.ivar)
    with pytest.raises(tc.model.cannon.NotTrainedError, match="train"):
        untrained.partitions
    untrained.train()
    with pytest.raises(ValueError, match="dispersion"):
        untrained.test(others.flux, others.ivar, dispersion=np.linspace(6000, 6100, N_PIXELS))
    with pytest.raises(ValueError, match="pixel"):
        untrained.test(others.flux[:, :5], others.ivar[:, :5])


def test_training_is_a_function_of_its_input(survey, local):
    again = survey.local(partitions=[(1, 1)])
    again.train()
    assert again == local
    assert "order 1" in repr(again)
    assert again != survey.local(partitions=[(1, 1)])
