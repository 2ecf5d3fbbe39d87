"""The order of the polynomial, and Lambda, by held-out spectra and labels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chi2, norm

import bayes_cannon as tc
from bayes_cannon.model import order_selection
from bayes_cannon.model.order_selection import Polynomial, bytes_needed

NAMES, ERROR = ("TEFF", "LOGG", "FE_H"), 0.01
SPREAD = np.array([400, 0.6, 0.3])


def stars(order, n_stars=200, *, seed=0, n_pixels=24, share=1.0):
    """Labels, flux and ivar, of a polynomial of this order with coefficients of which a share is not zero."""
    rng = np.random.default_rng(seed)
    labels = rng.normal([5000, 2.5, -0.3], SPREAD, (n_stars, 3))
    vectorizer = tc.vectorizer.PolynomialVectorizer(NAMES, order)
    theta = rng.normal(0, 0.02, (n_pixels, vectorizer.n_terms))
    theta[:, 1:] *= rng.random(theta[:, 1:].shape) < share
    theta[:, 0] = 1
    flux = vectorizer((labels - [5000, 2.5, -0.3]) / SPREAD).T @ theta.T
    return labels, flux + ERROR * rng.normal(size=flux.shape), np.full(flux.shape, ERROR**-2)


def model_of(data, order=1, names=NAMES, **options):
    return tc.CannonModel(*data, tc.vectorizer.PolynomialVectorizer(names, order), **options)


def test_scores_are_those_of_a_computation_by_hand():
    """One label: densities of the pixels of a star, and the error of its label, from a model without its fold."""
    rng = np.random.default_rng(1)
    label = np.sort(rng.uniform(-1, 1, (48, 1)), axis=0)
    flux = 1 + label * np.linspace(-0.1, 0.1, 8) + 0.03 * label**2 + 0.02 * rng.normal(size=(48, 8))
    ivar = rng.uniform(1e4, 4e4, flux.shape)
    ivar[5, 2] = 0.0
    model = model_of((label, flux, ivar), names=("A",))
    path = model.order_path((1, 2), n_folds=4, seed=5)
    fold = tc.validate.folds(48, 4, seed=5)
    assert np.isfinite(path.log_likelihood).all()
    for k, order in enumerate((1, 2)):
        for number in (0, 3):
            train, away = fold != number, fold == number
            part = model_of((label[train], flux[train], ivar[train]), order, names=("A",))
            part.train()
            with np.errstate(divide="ignore"):
                error = np.sqrt(part.s2 + 1 / ivar[away])
            density = np.where(ivar[away] > 0, norm.logpdf(flux[away], part(label[away]), error), 0).sum(axis=1)
            assert_allclose(path.log_likelihood[k, away], density, rtol=1e-6)
            step = 1e-5
            slope = (part(label[away] + step) - part(label[away] - step)) / (2 * step) * model.scaling.scale
            information = (slope**2 / error**2).sum(axis=1)
            pull = (slope * (flux[away] - part(label[away])) / error**2).sum(axis=1) / np.sqrt(information)
            score = 0.5 * np.log(information) - 0.5 * pull**2 / chi2.median(1)
            assert_allclose(path.label_score[k, away], score, rtol=1e-4, atol=1e-4)
    assert_allclose(path.n_terms, [2, 3])


def test_a_quadratic_model_is_found_and_made():
    data = stars(2)
    model = model_of(data, regularization=0.0, censors={"FE_H": np.arange(24) < 3})
    path = model.order_path((3, 1, 2))
    assert [candidate.order for candidate in path.candidates] == [1, 2, 3]
    assert path.best.order == 2
    assert path.table.colnames[:3] == ["order", "regularization", "n_terms"]
    censored = tc.vectorizer.PolynomialVectorizer(NAMES, 2).exponents[:, 2] > 0
    assert_allclose(path.n_terms[1], 10 - censored.sum() * 3 / 24)
    chosen = model.with_terms(path.best)
    assert not chosen.is_trained
    assert chosen.vectorizer == tc.vectorizer.PolynomialVectorizer(NAMES, 2)
    assert_array_equal(chosen.censors["FE_H"], np.arange(24) < 3)
    assert model.vectorizer.n_terms == 4
    theta, _, _ = chosen.train()
    assert theta.shape == (24, 10)


def test_penalties_make_sparse_sets_of_terms():
    data = stars(3, share=0.15)
    model = model_of(data)
    path = model.order_path([2, 3], {3: [100.0, 0.0]})
    assert [str(one) for one in path.candidates] == ["order 2", "order 3", "order 3, Lambda 100"]
    assert str(path.best) == "order 3, Lambda 100"
    assert path.n_terms[2] < 0.6 * path.n_terms[1] == 0.6 * 20
    chosen = model.with_terms(path.best)
    theta, _, _ = chosen.train()
    assert chosen.regularization == 100.0
    # A fold leaves out a fifth of the stars, and with them some of what overcomes the penalty.
    assert_allclose((theta != 0).sum(axis=1).mean(), path.n_terms[2], rtol=0.1)


def test_correlated_scatter_is_that_of_the_model():
    data = stars(2)
    path = model_of(data, scatter=tc.scatter.Full()).order_path((1, 2), [0.0, 5.0], held_out=[0])
    plain = model_of(data, scatter="auto").order_path((1, 2), [0.0, 5.0], held_out=[0])
    assert path.best.order == plain.best.order == 2
    known = tc.validate.folds(200) == 0
    assert np.isfinite(path.log_likelihood[:, known]).all()
    assert (path.log_likelihood[:, known] != plain.log_likelihood[:, known]).all()


def test_the_scale_factor_changes_nothing_without_a_penalty():
    data = stars(2)
    one, two = (model_of(data, scale_factor=f).order_path((1, 2), held_out=[1]) for f in (1.0, 2.0))
    assert_allclose(two.log_likelihood, one.log_likelihood, rtol=1e-6)
    # Scaled labels are half as large, so that the density of each of three is twice as large.
    assert_allclose(two.label_score, one.label_score + 3 * np.log(2), rtol=1e-5, atol=1e-5)


def test_only_pixels_that_all_can_solve_count():
    labels, flux, ivar = stars(1)
    few, none = ivar.copy(), ivar.copy()
    few[12:, 4], none[:, 4] = 0.0, 0.0
    with_few, without = (model_of((labels, flux, one)).order_path((1, 2), held_out=[0]) for one in (few, none))
    assert_allclose(with_few.log_likelihood, without.log_likelihood, rtol=1e-9)


def test_what_stars_and_memory_allow(monkeypatch):
    data = tuple(array[:30] for array in stars(1))
    model = model_of(data)
    path = model.order_path(held_out=[0])
    assert [one.order for one in path.candidates] == [1, 2, 3]
    left = int((tc.validate.folds(30) != 0).sum())
    assert path.left_out["order 4"] == (
        f"35 terms without a penalty need more than 35 stars, and where a fold of the 30 is held out {left} are left"
    )
    assert path.best.order == 1
    with pytest.raises(ValueError, match="order 4: 35 terms without a penalty need more than 35 stars"):
        model.order_path([1, 4])
    with pytest.raises(ValueError, match=r"order 200: 1,373,701 terms of 3 labels need [\d.e+]+ GB with 30 stars"):
        model.order_path([1, 200])
    monkeypatch.setattr(order_selection, "physical_memory", lambda: 2.0 * bytes_needed(30, 3, 24, 1))
    assert [one.order for one in model.order_path(held_out=[0]).candidates] == [1]
    assert "order 2" in model.order_path(held_out=[0]).left_out
    monkeypatch.setattr(order_selection, "physical_memory", lambda: 1.0)
    with pytest.raises(ValueError, match=r"no order can be tried\. order 1: 4 terms of 3 labels need"):
        model.order_path()


def test_bounds_hold_for_the_terms_that_there_are():
    data = stars(2)
    bounds = {"TEFF": (0, None), "LOGG*TEFF": (None, 0)}
    model = tc.RestrictedCannonModel(*data, tc.vectorizer.PolynomialVectorizer(NAMES, 2), theta_bounds=bounds)
    linear = model.with_terms(Polynomial(1))
    assert isinstance(linear, tc.RestrictedCannonModel)
    assert linear.theta_bounds == {"TEFF": (0.0, None)}
    assert model.with_terms(Polynomial(3)).theta_bounds == model.theta_bounds
    model.theta_bounds = {"TEFF^2": (0.1, None)}
    with pytest.raises(ValueError, match="keep 'TEFF\\^2' from zero, and the polynomial does not have this term"):
        model.with_terms(Polynomial(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"orders": []}, "orders must be integers of at least 1"),
        ({"orders": (0, 1)}, "orders must be integers of at least 1"),
        ({"orders": "auto"}, "orders must be an integer, got 'auto'"),
        ({"orders": [1.5]}, "orders must be an integer, got 1.5"),
        ({"regularizations": [-1.0]}, "regularization must be finite and not negative; got -1.0"),
        ({"regularizations": []}, "regularizations must be a list of numbers"),
        ({"regularizations": 3.0}, "regularizations must be a list of numbers"),
        (
            {"orders": [1], "regularizations": {2: [1.0]}},
            "regularizations has penalties of order 2, and the",
        ),
        ({"held_out": [9]}, "there is no fold 9"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        model_of(stars(1)).order_path(**arguments)


def test_a_model_without_spectra_or_a_choice():
    labels, _, _ = stars(1)
    with pytest.raises(TypeError, match="holds no training spectra"):
        model_of((labels, None, None)).order_path()
    with pytest.raises(TypeError, match="choice must be a candidate of an order_path"):
        model_of((labels, None, None)).with_terms(2)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_true_order_is_chosen(order):
    """Of five sets of few stars: another one at times, a higher one once at most."""
    found = [model_of(stars(order, 60, seed=seed)).order_path().best.order for seed in range(5)]
    assert found.count(order) >= 3
    assert sum(one > order for one in found) <= 1


def with_nuisance(n_stars, seed):
    """Stars of two labels and one more on which spectra depend."""
    rng = np.random.default_rng(seed)
    labels = rng.normal([5000, 2.5, 0.3], [400, 0.6, 0.2], (n_stars, 3))
    slopes = np.random.default_rng(99).normal(0, 0.02, (3, 24))
    slopes[2] = 0.8 * slopes[0] + 0.5 * slopes[2]  # Extinction looks like temperature.
    flux = 1 + ((labels - [5000, 2.5, 0.3]) / [400, 0.6, 0.2]) @ slopes
    return labels, flux + ERROR * rng.normal(size=flux.shape), np.full(flux.shape, ERROR**-2)


@pytest.mark.slow
def test_a_label_that_nobody_asks_for_is_integrated_out():
    """With it errors of the others are right; without it they are too small, and biased where it is another."""
    (labels, flux, ivar), (known, new, weight) = with_nuisance(200, 0), with_nuisance(400, 1)
    shifted = known[:, 2] > 0.5
    names = ("TEFF", "LOGG", "A_K")
    fits = {}
    for used in (3, 2):
        model = model_of((labels[:, :used], flux, ivar), 1, names=names[:used])
        model.train()
        fit = model.fit_labels(new, weight, prior="population")
        local = tc.LocalCannonModel(labels[:, :used], flux, ivar, names[:used], partitions=[(1, 1)])
        local.train()
        for name, one in (("one", fit), ("local", local.fit_labels(new, weight))):
            asked, covariance = one.labels[:, :2], one.covariance[:, :2, :2]
            fits[used, name] = tc.validate.pulls(asked, known[:, :2], covariance)
    for name in ("one", "local"):
        # The standard deviation of 400 pulls is known to 3.5 %, and the mean of about 60 to 0.13.
        assert_allclose(fits[3, name].std(axis=0), 1, atol=0.12)
        assert abs(fits[3, name][shifted, 0].mean()) < 0.5
        assert fits[2, name][:, 0].std() > 1.5
        assert abs(fits[2, name][shifted, 0].mean()) > 1.5
