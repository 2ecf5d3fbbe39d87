"""Which of the candidates is taken, by scores that are given."""

import numpy as np
import pytest

from bayes_cannon.scatter.held_out_path import HeldOutPath, held_out_stars

N = 100
FAR, NEAR = 1.0, 0.05
"""Ten standard errors and half of one, where stars scatter by one from a candidate to the next."""


def path(likelihoods, label_scores=None, n_terms=None, valid=None):
    """Candidates whose scores differ from those of the first by these means, with a scatter of one."""
    scatter = np.tile([-1.0, 1.0], N // 2)
    scores = [np.array([mean + k * scatter for k, mean in enumerate(means)]) if means else None
              for means in (likelihoods, label_scores)]  # fmt: skip
    kind = np.ones(len(likelihoods), bool) if valid is None else np.array(valid)
    terms = None if n_terms is None else np.array(n_terms, float)
    return HeldOutPath(tuple("abcd"[: len(likelihoods)]), scores[0], np.full(len(kind), np.inf), kind, scores[1], terms)


def test_likelihood_decides_where_labels_are_as_good():
    assert path([0, FAR]).best == "b"
    assert path([0, FAR], [0, -NEAR]).best == "b"
    assert path([0, FAR], [0, -FAR]).best == "a"
    assert path([0, FAR], [0, 0], valid=[True, False]).best == "a"
    assert path([0, FAR], [0, FAR], valid=[False, False]).best == "a"


def test_a_tie_goes_to_the_fewest_terms():
    assert path([0, NEAR]).best == "b"
    assert path([0, NEAR], n_terms=[10, 20]).best == "a"
    assert path([0, FAR], n_terms=[10, 20]).best == "b"
    assert path([0, -NEAR], n_terms=[20, 10]).best == "b"
    # As many terms: the likelihood again. A tie is one with the largest, and not with the next below.
    assert path([0, NEAR], n_terms=[10, 10]).best == "b"
    assert path([0, FAR, FAR + NEAR], n_terms=[1, 5, 9]).best == "b"
    # Labels come first: what has worse ones is no tie.
    assert path([0, NEAR], [0, FAR], n_terms=[10, 20]).best == "b"
    assert path([0, NEAR], n_terms=[10, 20], valid=[False, True]).best == "b"


def test_labels_that_nothing_determines_are_worse():
    one = path([0, FAR], [0, np.nan])
    assert one.best == "a"
    assert np.isnan(one.table["label_score"][1])
    assert path([0, FAR], [np.nan, np.nan]).best == "b"


def test_the_table_compares_with_the_first():
    table = path([5.0, 6.0], [1.0, 2.0]).table
    assert table.colnames == ["candidate", "log_likelihood", "gain", "gain_error", "nu", "valid", "label_score"]
    np.testing.assert_allclose(table["gain"], [0, 1])
    np.testing.assert_allclose(table["gain_error"], [0, 0.1])


def test_held_out_stars_are_those_of_the_folds():
    x = np.random.default_rng(0).normal(size=(50, 2))
    fold = np.random.default_rng(3).integers(0, 5, 50)
    masks = held_out_stars(x, seed=3)
    assert len(masks) == 5
    for number, mask in enumerate(masks):
        np.testing.assert_array_equal(mask, fold == number)
    groups = np.repeat(np.arange(10), 5)
    for mask in held_out_stars(x, n_folds=3, groups=groups):
        assert all(len(set(mask[groups == group])) == 1 for group in range(10))
    assert len(held_out_stars(np.random.default_rng(0).normal(size=(1000, 2)))) == 2
    with pytest.raises(ValueError, match="there is no fold 5: folds are from 0 to 4"):
        held_out_stars(x, held_out=[5])
