import numpy as np
import pandas as pd
import pytest
from astropy.table import Table
from scipy.spatial import cKDTree

from bayes_cannon import training_set
from bayes_cannon.training_set import METHODS, balance, isolated

NAMES = ("TEFF", "LOGG", "FE_H")


def clumpy(n=3000, seed=0):
    """Nine in ten stars in a red clump, the others over a wide box."""
    rng = np.random.default_rng(seed)
    clump = rng.normal([4800, 2.45, -0.05], [60, 0.06, 0.08], (n, 3))
    box = rng.uniform([3800, 0.2, -2.0], [6200, 4.8, 0.4], (n, 3))
    return np.where(rng.random((n, 1)) < 0.9, clump, box)


def scaled(labels):
    low, high = np.percentile(labels, [2.5, 97.5], axis=0)
    return (labels - np.median(labels, axis=0)) / (high - low)


def covering_radius(labels, chosen):
    """Largest scaled distance from a star to the nearest chosen one."""
    x = scaled(labels)
    return cKDTree(x[chosen]).query(x)[0].max()


def unevenness(labels, chosen):
    """Chi^2 per bin of the chosen stars' counts in a 4 x 4 x 4 grid against equal counts."""
    edges = [np.linspace(low, high, 5) for low, high in ((3800, 6200), (0.2, 4.8), (-2.0, 0.4))]
    counts, _ = np.histogramdd(labels[chosen], edges)
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).mean()


def random_draws(labels, n, criterion, repeats=20):
    rng = np.random.default_rng(7)
    return np.array([criterion(labels, rng.choice(len(labels), n, replace=False)) for _ in range(repeats)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("criterion", [covering_radius, unevenness])
def test_the_choice_is_more_even_than_every_random_draw(method, criterion):
    labels = clumpy()
    drawn = random_draws(labels, 150, criterion)
    values = [criterion(labels, balance(labels, 150, method=method, seed=seed)) for seed in range(5)]
    factor = 0.1 if criterion is unevenness else 0.75
    assert max(values) < factor * drawn.min()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 37, 300])
def test_rows_are_distinct_sorted_and_as_many_as_asked_for(method, n):
    chosen = balance(clumpy(300), n, method=method, seed=3)
    assert chosen.shape == (n,)
    assert chosen.dtype.kind == "i"
    assert (np.diff(chosen) > 0).all()
    assert chosen.min() >= 0
    assert chosen.max() < 300


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_stars_whatever_their_order(method):
    labels = clumpy(500)
    order = np.random.default_rng(5).permutation(500)
    chosen = balance(labels, 60, method=method, seed=11)
    np.testing.assert_array_equal(balance(labels, 60, method=method, seed=11), chosen)
    np.testing.assert_array_equal(np.sort(order[balance(labels[order], 60, method=method, seed=11)]), chosen)
    generator = np.random.default_rng(11)
    np.testing.assert_array_equal(balance(labels, 60, method=method, seed=generator), chosen)


@pytest.mark.parametrize("method", METHODS)
def test_units_of_the_labels_do_not_matter(method):
    labels = clumpy(500)
    other = labels * [1e-4, 100.0, 3.0] + [1.0, -50.0, 2.0]
    np.testing.assert_array_equal(balance(other, 60, method=method, seed=2), balance(labels, 60, method=method, seed=2))


def test_another_seed_draws_other_stars():
    labels = clumpy(500)
    assert set(balance(labels, 60, seed=1)) != set(balance(labels, 60, seed=2))


def test_space_filling_is_within_twice_the_smallest_covering_radius():
    # Gonzalez 1985: n + 1 stars at distances of at least r prove that no n stars cover with a radius below r / 2.
    labels = clumpy(500)
    radius = covering_radius(labels, balance(labels, 20, method="space_filling"))
    more = scaled(labels)[balance(labels, 21, method="space_filling")]
    assert cKDTree(more).query(more, k=2)[0][:, 1].min() >= radius * (1 - 1e-9)


def test_space_filling_choices_are_nested():
    labels = clumpy(500)
    assert set(balance(labels, 20, method="space_filling")) < set(balance(labels, 50, method="space_filling"))


def test_alpha_zero_is_a_plain_draw_and_more_alpha_is_more_even():
    labels = clumpy()
    chi2 = [
        np.mean([unevenness(labels, balance(labels, 150, alpha=alpha, seed=s)) for s in range(10)])
        for alpha in (0, 0.4, 1)
    ]
    plain = random_draws(labels, 150, unevenness)
    assert abs(chi2[0] - plain.mean()) < 4 * plain.std() / np.sqrt(10)
    assert chi2[0] > 2 * chi2[1] > 4 * chi2[2]


def test_a_uniform_line_of_varying_density_becomes_uniform():
    # Density rises tenfold along the line; 1 / density evens it out, to the Poisson error of 400 stars in 8 bins.
    rng = np.random.default_rng(4)
    t = rng.choice(np.linspace(0, 1, 40_001), 20_000, p=np.linspace(1, 10, 40_001) / np.linspace(1, 10, 40_001).sum())
    chosen = balance(t + 1e-6 * rng.random(t.size), 400, alpha=1.0, seed=1)
    counts = np.histogram(t[chosen], 8, (0, 1))[0]
    assert ((counts - 50) ** 2 / 50).sum() < 24.3  # chi^2 with 7 degrees of freedom, one in a thousand
    assert np.histogram(t, 2, (0, 1))[0] @ [-1, 1] > 5000


def test_default_tempering_keeps_the_draw_from_the_outermost_stars_in_many_dimensions():
    rng = np.random.default_rng(6)
    labels = rng.standard_t(4, (4000, 12))
    radius = np.sqrt((scaled(labels) ** 2).sum(axis=1))
    outermost = set(np.argsort(-radius)[:400])
    taken = len(outermost.intersection(balance(labels, 400, seed=0).tolist())) / 400
    untempered = len(outermost.intersection(balance(labels, 400, alpha=1.0, seed=0).tolist())) / 400
    assert 0.1 < taken < untempered
    assert untempered > 0.6


def test_neighbours_among_few_stars_measure_nearly_the_same_isolation(monkeypatch):
    monkeypatch.setattr(training_set, "MAX_REFERENCES", 700)
    rng = np.random.default_rng(8)
    x = rng.normal(size=(2000, 3)) @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(2000, 8))
    some = training_set._neighbor_distances(x, 10)[:, -1]
    monkeypatch.setattr(training_set, "FEW_LABELS", 8)
    exact = training_set._neighbor_distances(x, 10)
    np.testing.assert_allclose(exact, cKDTree(x).query(x, k=11)[0][:, 1:])
    assert np.corrcoef(np.log(some), np.log(exact[:, -1]))[0, 1] > 0.9


def test_isolated_stars_are_named_and_never_chosen():
    labels = clumpy(1000)
    wrong = [17, 400]
    labels[wrong] = [[9000, 7.0, 3.0], [1000, -4.0, -6.0]]
    assert set(isolated(labels, 0.002)) == set(wrong)
    assert set(wrong) < set(balance(labels, 20, method="space_filling"))
    trimmed = isolated(labels, 0.05)
    assert trimmed.shape == (50,)
    assert set(wrong) < set(trimmed)
    for method in METHODS:
        chosen = balance(labels, 200, method=method, seed=0, trim=0.05)
        assert not set(trimmed) & set(chosen)
        assert len(balance(labels, 950, method=method, seed=0, trim=0.05)) == 950
    with pytest.raises(ValueError, match="from 1 to the number of stars, 950; got 951"):
        balance(labels, 951, method="space_filling", trim=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_containers_agree_and_columns_can_be_chosen(method):
    labels = clumpy(300)
    chosen = balance(labels, 40, method=method, seed=1)
    for wrap in (pd.DataFrame, Table, dict):
        named = wrap(dict(zip(NAMES, labels.T, strict=True)))
        np.testing.assert_array_equal(balance(named, 40, method=method, seed=1), chosen)
        two = balance(named, 40, label_names=("LOGG", "TEFF"), method=method, seed=1)
        np.testing.assert_array_equal(two, balance(labels[:, [1, 0]], 40, method=method, seed=1))
    assert balance(labels[:, 0], 40, method=method, seed=1).shape == (40,)


@pytest.mark.parametrize("method", METHODS)
def test_twins_are_no_obstacle(method):
    labels = np.repeat(clumpy(40), 25, axis=0)
    chosen = balance(labels, 40, method=method, seed=1)
    assert len(set(chosen)) == 40
    if method == "space_filling":
        assert len(np.unique(labels[chosen], axis=0)) == 40
    assert len(set(balance(labels, 900, method=method, seed=1))) == 900


def test_bad_input_is_refused():
    labels = clumpy(100)
    for n in (0, -1, 101, 2.0, True):
        with pytest.raises(ValueError, match=rf"from 1 to the number of stars, 100; got {n}"):
            balance(labels, n, seed=0)
    with pytest.raises(ValueError, match="unknown method 'kmeans'; the methods are density, space_filling"):
        balance(labels, 10, method="kmeans", seed=0)
    with pytest.raises(ValueError, match="pass seed="):
        balance(labels, 10)
    for alpha in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="alpha must be finite"):
            balance(labels, 10, seed=0, alpha=alpha)
    with pytest.raises(ValueError, match='for method "density" only'):
        balance(labels, 10, method="space_filling", alpha=0.5)
    for k in (0, 2.5):
        with pytest.raises(ValueError, match="n_neighbors must be a positive integer"):
            balance(labels, 10, seed=0, n_neighbors=k)
    for trim in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="trim must be a fraction"):
            balance(labels, 10, seed=0, trim=trim)


def test_bad_labels_are_refused():
    labels = clumpy(100)
    labels[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"'column 1' at 1 of 100 stars: rows 3 \(nan\)"):
        balance(labels, 10, seed=0)
    labels[:, 1] = 2.5
    with pytest.raises(ValueError, match="label 'LOGG' is constant"):
        balance(labels, 10, label_names=NAMES, seed=0)
    with pytest.raises(ValueError, match="no column 'ALPHA'"):
        balance(dict(zip(NAMES, labels.T, strict=True)), 10, label_names=["ALPHA"], seed=0)
