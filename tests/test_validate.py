import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from bayes_cannon import validate
from bayes_cannon.core.folds import same_labels

NAMES = ("TEFF", "LOGG")


def columns(*values):
    return np.array(values, dtype=float).T


def test_known_answers_of_bias_and_scatter():
    reference = np.zeros((5, 2))
    inferred = columns([1, 2, 3, 4, 100], [-7, -7, -7, -7, -7])
    np.testing.assert_allclose(validate.bias(inferred, reference), [3, -7])
    np.testing.assert_allclose(validate.robust_scatter(inferred, reference), [1.4826 * 1, 0])
    np.testing.assert_allclose(validate.plain_scatter(inferred, reference), [np.std([1, 2, 3, 4, 100]), 0])


def test_robust_scatter_of_normal_residuals_is_their_standard_deviation():
    rng = np.random.default_rng(3)
    n = 40_000
    inferred = 5 + rng.normal(0, [30.0, 0.2], (n, 2))
    # The relative Monte-Carlo error of a median absolute deviation is 1.17 / sqrt(n); five of them are allowed.
    np.testing.assert_allclose(validate.robust_scatter(inferred), [30, 0.2], rtol=5 * 1.17 / np.sqrt(n))


def test_failed_star_counts_as_infinite():
    inferred = columns([1, 2, 3, np.nan, np.nan], [1, 2, np.nan, np.nan, np.nan])
    scatter = validate.robust_scatter(inferred, np.zeros((5, 2)))
    # Deviations about the median 2: 1, 0, 1, inf, inf.
    np.testing.assert_allclose(scatter, [1.4826 * 1, np.inf])
    np.testing.assert_allclose(validate.bias(inferred, np.zeros((5, 2))), [2, 1.5])
    np.testing.assert_allclose(validate.plain_scatter(inferred), [np.std([1, 2, 3]), 0.5])


def test_no_star_without_failure():
    inferred = np.full((3, 2), np.nan)
    assert np.isnan(validate.bias(inferred, np.zeros((3, 2)))).all()
    assert np.isinf(validate.robust_scatter(inferred)).all()
    assert np.isnan(validate.plain_scatter(inferred)).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.floats(0.01, 100), shift=st.floats(-1e3, 1e3))
def test_units_scale_and_bias_shifts(seed, scale, shift):
    rng = np.random.default_rng(seed)
    inferred, reference = rng.normal(size=(2, 21, 2))
    inferred[rng.integers(21)] = np.nan
    before = validate.robust_scatter(inferred, reference)
    np.testing.assert_allclose(validate.robust_scatter(inferred * scale, reference * scale), scale * before, rtol=1e-10)
    moved = validate.bias(inferred + shift, reference)
    np.testing.assert_allclose(moved, validate.bias(inferred, reference) + shift, rtol=1e-10, atol=1e-10)
    order = rng.permutation(21)
    np.testing.assert_allclose(validate.robust_scatter(inferred[order], reference[order]), before)


def test_pulls_divide_by_the_error_and_add_that_of_the_reference():
    inferred, reference = columns([4.0, 10.0], [0.2, 0.0]), np.zeros((2, 2))
    covariance = np.array([np.diag([4.0, 0.01]), np.diag([9.0, 0.04])])
    np.testing.assert_allclose(validate.pulls(inferred, reference, covariance), columns([2, 10 / 3], [2, 0]))
    with_both = validate.pulls(inferred, reference, covariance, np.array([[0, 0], [4, 0]]))
    np.testing.assert_allclose(with_both[:, 0], [2, 10 / 5])


def test_negative_variance_is_no_error():
    covariance = np.array([[[-1.0, 0], [0, 4.0]]])
    np.testing.assert_array_equal(validate.label_errors(covariance), [[np.nan, 2.0]])
    with pytest.raises(ValueError, match=r"shape \(star, label, label\), got \(3, 2\)"):
        validate.label_errors(np.ones((3, 2)))


def test_log_scores_are_normal_densities_and_proper():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(400, 2, 2)) * [[[100.0], [0.1]]]
    covariance = root @ root.swapaxes(1, 2) + np.diag([400.0, 1e-3])
    reference = np.column_stack([rng.uniform(4000, 6000, 400), rng.uniform(1, 4, 400)])
    inferred = np.array([rng.multivariate_normal(*star) for star in zip(reference, covariance, strict=True)])
    expected = [
        multivariate_normal(*star[1:]).logpdf(star[0])
        for star in zip(inferred, reference, covariance, strict=True)
    ]  # fmt: skip
    scores = validate.log_scores(inferred, reference, covariance)
    np.testing.assert_allclose(scores, expected, rtol=1e-8)
    for factor in (0.5, 2.0):
        assert validate.log_scores(inferred, reference, factor**2 * covariance).mean() < scores.mean() - 0.2
    inferred[3, 1], covariance[5, 0, 0] = np.nan, -1.0
    assert np.flatnonzero(np.isnan(validate.log_scores(inferred, reference, covariance))).tolist() == [3, 5]


def test_folds_are_those_of_the_definition():
    expected = np.random.default_rng(0).integers(0, 5, 1000)
    np.testing.assert_array_equal(validate.folds(1000), expected)
    assert set(validate.folds(1000, k=3, seed=1)) == {0, 1, 2}
    with pytest.raises(ValueError, match="got 1"):
        validate.folds(10, k=1)
    with pytest.raises(ValueError, match="number of stars, 3; got 5"):
        validate.folds(3)


def test_folds_keep_groups_together():
    """Visits of one star are in one fold; groups of one are no groups, whatever they are called."""
    groups = np.random.default_rng(0).integers(0, 40, 300).astype(str)
    fold = validate.folds(300, 5, 3, groups)
    assert all(len(np.unique(fold[groups == group])) == 1 for group in np.unique(groups))
    assert set(fold) == set(range(5))
    # Drawn in the order in which groups first appear.
    first = np.array([np.flatnonzero(groups == group)[0] for group in dict.fromkeys(groups)])
    np.testing.assert_array_equal(fold[first], np.random.default_rng(3).integers(0, 5, len(first)))
    names = np.random.default_rng(1).permutation(300).astype(str)
    np.testing.assert_array_equal(validate.folds(300, 5, 3, names), validate.folds(300, 5, 3))
    with pytest.raises(ValueError, match="from 2 to the number of groups, 2; got 3"):
        validate.folds(4, 3, groups=["a", "a", "b", "b"])
    with pytest.raises(ValueError, match=r"groups must have shape \(4,\), one value a star; got \(3,\)"):
        validate.folds(4, 2, groups=["a", "b", "c"])


def test_same_labels():
    labels = np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0], [np.nan, 2.0], [np.nan, 2.0]])
    group = same_labels(labels, 2)
    assert group[0] == group[2]
    assert len(set(group)) == 4
    assert same_labels(labels, 5) is None


@pytest.mark.parametrize("given", [True, False])
def test_visits_of_a_star_are_held_out_together(linear_stars, given):
    """A fit that knows the stars that it was trained with by their labels never meets them again."""
    labels, flux, ivar = (np.repeat(array, 3, axis=0) for array in linear_stars)
    names = np.repeat(np.arange(60), 3)
    held_out = []

    def fit(known, *_):
        def test(flux, ivar):
            held_out.append(len(flux))
            other = labels[np.isin(labels[:, 0], known[:, 0], invert=True)]
            assert len(other) == len(flux)
            return other, None

        return test

    result = validate.cross_validate(fit, labels, flux, ivar, k=4, groups=names if given else None)
    assert sum(held_out) == 180
    np.testing.assert_array_equal(result.fold, np.repeat(validate.folds(60, 4), 3))


def linear_fit(calls):
    """Least squares of labels on flux, which also records what it was trained on."""

    def fit(labels, flux, ivar):
        calls.append(flux[:, 0])
        coefficients = np.linalg.lstsq(flux, labels, rcond=None)[0]

        def infer(flux, ivar):
            variance = np.eye(labels.shape[1]) / ivar[:, :1, None]
            return flux @ coefficients, variance, "anything more is ignored"

        return infer

    return fit


@pytest.fixture
def linear_stars():
    rng = np.random.default_rng(5)
    flux = rng.normal(size=(60, 4))
    return flux @ rng.normal(size=(4, 2)), flux, np.full((60, 4), 4.0)


def test_cross_validation_labels_every_star_without_training_on_it(linear_stars):
    labels, flux, ivar = linear_stars
    calls = []
    result = validate.cross_validate(linear_fit(calls), labels, flux, ivar)
    np.testing.assert_allclose(result.inferred, labels, atol=1e-10)
    np.testing.assert_allclose(validate.label_errors(result.covariance), 0.5)
    np.testing.assert_array_equal(result.fold, validate.folds(60))
    assert len(calls) == 5
    for number, trained_on in enumerate(calls):
        np.testing.assert_array_equal(trained_on, flux[result.fold != number, 0])


def test_rejected_stars_do_not_train_but_are_evaluated(linear_stars):
    labels, flux, ivar = linear_stars
    spoiled = labels.copy()
    spoiled[7] += 1e6
    calls = []
    result = validate.cross_validate(linear_fit(calls), spoiled, flux, ivar, reject=lambda training: training == 7)
    assert all(flux[7, 0] not in trained_on for trained_on in calls)
    np.testing.assert_allclose(result.inferred, labels, atol=1e-8)
    np.testing.assert_allclose(result.inferred[7] - result.reference[7], -1e6)


def test_cross_validation_without_covariance_and_with_wrong_shapes(linear_stars):
    labels, flux, ivar = linear_stars
    result = validate.cross_validate(lambda *_: lambda f, i: (f[:, :2], None), labels, flux, ivar)
    assert np.isnan(result.covariance).all()
    np.testing.assert_array_equal(result.inferred, flux[:, :2])
    with pytest.raises(ValueError, match="inferred labels must have shape"):
        validate.cross_validate(lambda *_: lambda f, i: (f, None), labels, flux, ivar)
    with pytest.raises(ValueError, match="one row a star"):
        validate.cross_validate(linear_fit([]), labels[:-1], flux, ivar)


def test_summary_table():
    reference = np.zeros((5, 2))
    inferred = columns([10, 20, 30, 40, np.nan], [0.1, 0.2, 0.3, 0.4, 0.5])
    covariance = np.broadcast_to(np.diag([100.0, 0.04]), (5, 2, 2)).copy()
    covariance[4, 0] = np.nan
    table = validate.summary_table(inferred, reference, covariance, label_names=NAMES, units={"TEFF": "K"})
    assert list(table["label"]) == list(NAMES)
    assert list(table["unit"]) == ["K", ""]
    assert list(table["stars"]) == [5, 5]
    assert list(table["failed"]) == [1, 0]
    np.testing.assert_allclose(table["bias"], [25, 0.3])
    # TEFF: deviations about 25 are 15, 5, 5, 15 and infinity; LOGG: 0.2, 0.1, 0, 0.1, 0.2.
    np.testing.assert_allclose(table["robust_scatter"], [1.4826 * 15, 1.4826 * 0.1])
    np.testing.assert_allclose(table["plain_scatter"], [np.std([10, 20, 30, 40]), np.std([1, 2, 3, 4, 5]) / 10])
    np.testing.assert_allclose(table["median_error"], [10, 0.2])
    np.testing.assert_allclose(table["robust_pull"], [1.4826 * 1.5, 1.4826 * 0.5])
    np.testing.assert_allclose(table["plain_pull"], [np.std([1, 2, 3, 4]), np.std([1, 2, 3, 4, 5]) / 2])
    assert table.meta["pulls_include_reference_errors"] is False


def test_summary_table_says_when_reference_errors_are_in_the_pulls():
    inferred = columns([1.0, 3.0], [1.0, 3.0])
    covariance = np.broadcast_to(9 * np.eye(2), (2, 2, 2))
    table = validate.summary_table(inferred, 0 * inferred, covariance, label_names=NAMES, reference_error=4.0)
    np.testing.assert_allclose(table["plain_pull"], 1 / 5)
    assert table.meta["pulls_include_reference_errors"] is True
    assert "median_error" not in validate.summary_table(inferred, 0 * inferred, label_names=NAMES).colnames
    with pytest.raises(ValueError, match="TEFF, LOGG"):
        validate.summary_table(inferred[:, :1], inferred[:, :1], label_names=NAMES)
    with pytest.raises(ValueError, match="same shape"):
        validate.bias(inferred, inferred[:1])
