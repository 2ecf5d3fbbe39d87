"""What scripts for the original package, thecannon 0.2.96, ask for by name."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.core.checks import CorrelatedLabelsWarning
from bayes_cannon.vectorizer.base import BaseVectorizer
from bayes_cannon.vectorizer.polynomial import (
    PolynomialVectorizer,
    get_label_names,
    human_readable_label_term,
    human_readable_label_vector,
    parse_label_vector_description,
    terminator,
)


def test_keywords_of_the_constructor(training):
    model = training.model(threads=-1, rho_warning=0.95)
    assert_array_equal(model.training_set_labels, training.labels)
    for wrong in (np.nan, -0.1, "high", None):
        with pytest.raises(ValueError, match="rho_warning must be a correlation from 0 to 1"):
            training.model(rho_warning=wrong)


def test_correlated_labels_are_warned_of_above_the_limit():
    x = np.random.default_rng(0).normal(size=(200, 2))
    labels = np.column_stack([x[:, 0], 0.92 * x[:, 0] + np.sqrt(1 - 0.92**2) * x[:, 1]])
    vectorizer = PolynomialVectorizer(("A", "B"), 1)
    tc.CannonModel(labels, None, None, vectorizer, rho_warning=0.97)
    for options in ({}, {"rho_warning": 0.5}):
        with pytest.warns(CorrelatedLabelsWarning, match=r"rho = \+0\.9"):
            tc.CannonModel(labels, None, None, vectorizer, **options)


def test_scales_and_fiducials_scale_the_labels_of_the_design_matrix(training):
    for model in (training.model(), training.model(scale_factor=2.0)):
        x = (training.labels - model._fiducials) / model._scales
        assert_allclose(model.vectorizer(x).T, model.design_matrix, rtol=1e-12)
    assert_allclose(training.model()._scales, np.ptp(np.percentile(training.labels, [2.5, 97.5], axis=0), axis=0))


def test_models_and_censors_are_compared_by_what_they_hold(training):
    masks = {"TEFF": np.arange(60) < 5}
    model, other = (training.model(censors=masks) for _ in range(2))
    assert model == other
    assert model.censors == other.censors
    assert model.censors == masks
    assert model.censors != {}
    other.censors["TEFF"] = np.arange(60) < 6
    assert model.censors != other.censors
    assert model != other
    assert model.censors != [1]


class TestRecords:
    def test_residuals_make_chi_squared(self, training, trained):
        flux, ivar = training.flux[:8].copy(), training.ivar[:8].copy()
        ivar[0, :5], flux[0, :5] = 0.0, np.nan
        labels, _, records = trained.test(flux, ivar)
        for star, record in enumerate(records):
            used = ivar[star] > 0
            assert record["fvec"].shape == (used.sum(),)
            assert_allclose(np.sum(record["fvec"] ** 2), record["chi_sq"], rtol=1e-7)
            error = np.sqrt(1 / ivar[star, used] + trained.s2[used])
            expected = (trained(labels[star]) - flux[star])[used] / error
            assert_allclose(record["fvec"], expected, rtol=1e-9, atol=1e-12)
            assert record["nfev"] == record["njev"] == record["n_iterations"]
            assert record["ier"] in (1, 2, 3, 4)
            assert record["mesg"] == record["message"]

    def test_what_has_no_meaning_says_so(self, training, trained):
        *_, records = trained.test(training.flux[:2], np.zeros((2, 60)))
        assert records[0]["ier"] == 5
        with pytest.raises(KeyError, match="fjac: Newton's method on the compressed spectrum has none"):
            records[0]["fjac"]
        with pytest.raises(KeyError, match="nothing"):
            records[0]["nothing"]
        correlated = training.model(scatter=tc.scatter.LowRank(1))
        correlated.train()
        *_, records = correlated.test(training.flux[:2], training.ivar[:2])
        with pytest.raises(KeyError, match="chi\\^2 is no sum of squares"):
            records[0]["fvec"]
        assert records[0]["model_flux"].shape == (60,)

    def test_model_flux_is_that_of_the_fit_also_after_another_training(self, training):
        model = training.model()
        model.train()
        labels, _, records = model.test(training.flux[:2], training.ivar[:2])
        expected = model(labels)
        again = pickle.loads(pickle.dumps(records))
        model.use_theta(2 * model.theta, model.s2)
        assert_allclose(records[0]["model_flux"], expected[0], rtol=1e-12)
        assert_allclose(again[1]["model_flux"], expected[1], rtol=1e-12)


class TestFitting:
    def test_spectrum(self, training, trained):
        found = tc.fitting.fit_spectrum(
            training.flux[0], training.ivar[0], trained._fiducials, trained.vectorizer, trained.theta, trained.s2,
            trained._fiducials, trained._scales,
        )  # fmt: skip
        labels, covariance, records = trained.test(training.flux[:1], training.ivar[:1])
        assert_allclose(found[0], labels[0], rtol=1e-6)
        assert_allclose(found[1], covariance[0], rtol=1e-5)
        assert_allclose(found[2]["chi_sq"], records[0]["chi_sq"], rtol=1e-9)
        assert_allclose(np.sum(found[2]["fvec"] ** 2), found[2]["chi_sq"], rtol=1e-9)

    def test_theta_at_given_scatter(self, training):
        design, flux, ivar = training.model().design_matrix, training.flux[:, 0].copy(), training.ivar[:, 0].copy()
        flux[3], ivar[3] = np.nan, 0.0
        theta, covariance = tc.fitting.fit_theta_by_linalg(flux, ivar, 1e-4, design)
        weight = ivar / (1 + ivar * 1e-4)
        gram = design.T @ (weight[:, None] * design)
        assert_allclose(covariance, np.linalg.inv(gram), rtol=1e-8)
        assert_allclose(theta, np.linalg.solve(gram, design.T @ (weight * np.nan_to_num(flux))), rtol=1e-8)
        value, gradient = tc.fitting.chi_sq(theta, design, flux, weight)
        assert_allclose(gradient, 0, atol=1e-7 * value)
        step = 1e-6 * np.eye(10)[2]
        ends = [tc.fitting.chi_sq(theta + sign * step, design, flux, ivar, gradient=False) for sign in (1, -1)]
        _, slope = tc.fitting.chi_sq(theta, design, flux, ivar)
        assert_allclose((ends[0] - ends[1]) / 2e-6, slope[2], rtol=1e-4)

    def test_bad_input(self, training):
        design, flux, ivar = training.model().design_matrix, training.flux[:, 0], training.ivar[:, 0]
        with pytest.raises(ValueError, match="do not determine 10 terms"):
            tc.fitting.fit_theta_by_linalg(flux, np.where(np.arange(200) < 5, ivar, 0), 0.0, design)
        with pytest.raises(ValueError, match="s2 must be finite"):
            tc.fitting.fit_theta_by_linalg(flux, ivar, -1.0, design)
        with pytest.raises(ValueError, match=r"design_matrix \(star, term\)"):
            tc.fitting.chi_sq(np.ones(10), design[:5], flux, ivar)
        with pytest.raises(ValueError, match=r"theta must have shape \(10,\)"):
            tc.fitting.chi_sq(np.ones(9), design, flux, ivar)
        with pytest.raises(ValueError, match="theta must have shape"):
            tc.fitting.L1Norm_variation([])

    def test_norm(self):
        norm, derivative = tc.fitting.L1Norm_variation([5.0, -2.0, 0.0, 3.0])
        assert norm == 5
        assert_array_equal(derivative, [0, -1, 0, 1])

    def test_what_is_not_here_says_what_is(self):
        with pytest.raises(AttributeError, match=r"use CannonModel\.train"):
            tc.fitting.fit_pixel_fixed_scatter
        with pytest.raises(AttributeError, match="progress=True"):
            tc.utils.wrapper
        for module in (tc.fitting, tc.utils):
            with pytest.raises(AttributeError, match="no attribute 'other'"):
                module.other


def test_short_hash():
    assert tc.utils.short_hash("ab") == tc.utils.short_hash(["a", "b"]) == "0cc175b9c092eb5ffee6"
    assert tc.utils.short_hash(1) == "c4ca4238a0"


class TestPolynomials:
    def test_modules(self):
        assert tc.vectorizer.base.BaseVectorizer is BaseVectorizer is tc.vectorizer.BaseVectorizer
        assert tc.vectorizer.polynomial.PolynomialVectorizer is PolynomialVectorizer

    def test_text_and_structure(self):
        text = terminator(["A", "B"], 2)
        assert text == "A + B + A^2 + A*B + B^2"
        terms = parse_label_vector_description(text)
        assert terms == [[("A", 1)], [("B", 1)], [("A", 2)], [("A", 1), ("B", 1)], [("B", 2)]]
        assert parse_label_vector_description(terms) == terms
        assert get_label_names(terms) == ["A", "B"]
        assert human_readable_label_vector(terms) == "1 + " + text
        indexed = parse_label_vector_description(text, label_names=["B", "A"])
        assert indexed[3] == [(1, 1), (0, 1)]
        assert human_readable_label_term(indexed[3], ["B", "A"], bracket=True) == "(A*B)"
        shown = human_readable_label_vector(indexed, ["B", "A"], mul=" x ", bracket=True)
        assert shown.endswith("(A x B) + B^2")
        assert PolynomialVectorizer(terms=text) == PolynomialVectorizer(["A", "B"], 2)
        assert terminator(["A", "B"], 3, 1) == "A + B + A^2 + A*B + B^2 + A^3 + B^3"

    def test_refusals(self):
        with pytest.raises(ValueError, match="no term in"):
            parse_label_vector_description("A^0")
        with pytest.raises(ValueError, match="unknown label 'C'"):
            parse_label_vector_description("A + C", ["A", "B"])
        with pytest.raises(TypeError, match="must be a list of lists"):
            human_readable_label_vector("A + B")


class Own(BaseVectorizer):
    """The right values of its terms, unless a test says otherwise."""

    def __init__(self):
        super().__init__(("A",), [((0, 1),), ((0, 2),)])


class TestVectorizersOfOnesOwn:
    labels = np.random.default_rng(0).uniform(-1, 1, (50, 1))

    def make(self, **methods):
        return tc.CannonModel(self.labels, None, None, type("Own", (Own,), methods)())

    def test_right_ones_are_taken(self):
        def derivative(self, labels):
            (x,) = labels
            return np.array([[0.0], [1.0], [2 * x]])

        def vector(self, labels):
            x = np.atleast_2d(labels)[:, 0]
            return np.vstack([np.ones_like(x), x, x**2])

        def missing(self, labels):
            raise NotImplementedError

        plain = self.make().design_matrix
        assert_array_equal(plain[:, 0], 1)
        for methods in ({"get_label_vector_derivative": derivative, "get_label_vector": vector}, {"__call__": vector},
                        {"get_label_vector_derivative": missing}):  # fmt: skip
            assert_array_equal(self.make(**methods).design_matrix, plain)

    @pytest.mark.parametrize("name", ["get_label_vector", "__call__", "get_label_vector_derivative"])
    def test_wrong_ones_are_refused(self, name):
        def wrong(self, labels):
            return 1.001 * getattr(BaseVectorizer, name)(self, labels)

        with pytest.raises(TypeError, match=rf"Own\.{name} is not the .*product of powers"):
            self.make(**{name: wrong})

    def test_one_that_differs_at_a_single_star_is_refused(self):
        largest = self.labels.max()

        def wrong(self, labels):
            terms = BaseVectorizer.get_label_vector(self, labels)
            return np.where(terms[1] == terms[1].max(), 0.0, terms) if len(labels) == 50 else terms

        assert largest > 0
        with pytest.raises(TypeError, match=r"Own\.get_label_vector is not the product"):
            self.make(get_label_vector=wrong)
