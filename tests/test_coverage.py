"""Coverage by place in label space, against binomial numbers counted by hand and simulated stars."""

import numpy as np
import pytest
from scipy.stats import kstest

from bayes_cannon import validate


def test_cells_hold_every_star_once_and_count_right():
    rng = np.random.default_rng(0)
    place, inside = rng.normal(size=(1234, 3)), rng.random((1234, 2)) < 0.9
    found = validate.local_coverage(place, inside, 0.9, size=100)
    assert found.n_stars.sum() == 1234
    assert (found.n_stars >= 100).all()
    assert (found.n_stars < 200).all()
    total = (found.covered * found.n_stars[:, None]).sum(axis=0)
    np.testing.assert_allclose(total, inside.sum(axis=0), rtol=1e-12)
    for low, high, n, covered in zip(found.low, found.high, found.n_stars, found.covered, strict=True):
        # Coordinates are continuous, so that the box of a cell holds its stars and, but for its faces, no others.
        box = ((place >= low) & (place <= high)).all(axis=1)
        assert n <= box.sum() < 2.5 * n
        if box.sum() == n:
            np.testing.assert_allclose(covered, inside[box].mean(axis=0), rtol=1e-12)


def test_one_coordinate_gives_bins_of_equal_numbers():
    place = np.random.default_rng(1).permutation(800).astype(float)
    found = validate.local_coverage(place, place < 200, 0.25, size=200)
    np.testing.assert_array_equal(found.low[:, 0], [0, 200, 400, 600])
    np.testing.assert_array_equal(found.covered[:, 0], [1, 0, 0, 0])
    expected = np.array([0.75, -0.25, -0.25, -0.25]) / np.sqrt(0.25 * 0.75 / 200)
    np.testing.assert_allclose(found.deviation[:, 0], expected, rtol=1e-12)


def test_the_test_is_uniform_where_coverage_is_right_and_finds_it_wrong_where_the_average_is_right():
    rng = np.random.default_rng(2)
    place = rng.normal(size=(3000, 2))
    p = [validate.local_coverage(place, rng.random(3000) < 0.68, 0.68).p_value[0] for _ in range(200)]
    assert kstest(p, "uniform").pvalue > 1e-3
    # Right on the average, too narrow for one half of the stars and too wide for the other.
    inside = rng.random(3000) < np.where(place[:, 0] > 0, 0.60, 0.76)
    assert abs(inside.mean() - 0.68) < 0.03
    assert validate.local_coverage(place, inside, 0.68).p_value[0] < 1e-6


def test_table_names_what_it_has():
    found = validate.local_coverage(np.arange(10.0), np.ones((10, 2), bool), 0.5, size=5)
    table = found.table(["TEFF", "LOGG"], ["SNR"])
    assert table.colnames == ["stars", "SNR_LOW", "SNR_HIGH", "TEFF_COVERAGE", "LOGG_COVERAGE"]
    np.testing.assert_array_equal(table["SNR_HIGH"], [4, 9])
    with pytest.raises(ValueError, match="2 names of labels and 2 of coordinates"):
        found.table(["TEFF", "LOGG"])


@pytest.mark.parametrize(
    ("place", "inside", "level", "message"),
    [
        (np.zeros(3), np.ones(4, bool), 0.5, "shape"),
        (np.array([0.0, np.nan]), np.ones(2, bool), 0.5, "nan for star 1"),
        (np.zeros(3), np.ones(3), 0.5, "true or false"),
        (np.zeros(3), np.ones(3, bool), 68, "between 0 and 1"),
        (np.zeros(3), np.ones(3, bool), "half", "level"),
        (np.zeros((0, 2)), np.ones((0, 1), bool), 0.5, "shape"),
    ],
)
def test_what_it_refuses(place, inside, level, message):
    with pytest.raises(ValueError, match=message):
        validate.local_coverage(place, inside, level)
