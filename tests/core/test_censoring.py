"""Censoring: True means censored, in every function and class that knows it."""

import pickle
from copy import copy, deepcopy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from bayes_cannon.censoring import Censors, create_inverse_mask, create_mask
from bayes_cannon.core.censoring import design_matrix_mask
from bayes_cannon.vectorizer import PolynomialVectorizer

WAVELENGTH = np.arange(10.0)
ends = st.one_of(st.none(), st.floats(-2, 12))


def in_order(region):
    start, end = region
    return start is None or end is None or start <= end


regions = st.lists(st.tuples(ends, ends).filter(in_order), min_size=1, max_size=3)


@given(regions)
def test_mask_is_true_inside_the_regions(some):
    holds = [any((a is None or w >= a) and (b is None or w <= b) for w in WAVELENGTH) for a, b in some]
    if not all(holds):
        with pytest.raises(ValueError, match="holds no pixel"):
            create_mask(WAVELENGTH, some)
        return
    expected = [any((a is None or w >= a) and (b is None or w <= b) for a, b in some) for w in WAVELENGTH]
    assert_array_equal(create_mask(WAVELENGTH, some), expected)
    assert_array_equal(create_inverse_mask(WAVELENGTH, some), ~np.array(expected))


def test_ends_are_included_and_one_pair_is_enough():
    assert_array_equal(np.flatnonzero(create_mask(WAVELENGTH, (2, 4))), [2, 3, 4])
    assert_array_equal(np.flatnonzero(create_mask(WAVELENGTH, [2, 4])), [2, 3, 4])
    assert_array_equal(np.flatnonzero(create_mask(WAVELENGTH, [(None, 1), (8, None)])), [0, 1, 8, 9])
    assert_array_equal(np.flatnonzero(create_mask(WAVELENGTH[::-1], (2, 4))), [5, 6, 7])


@pytest.mark.parametrize("function", [create_mask, create_inverse_mask])
@pytest.mark.parametrize(
    ("given_regions", "message"),
    [
        ([], "no region given"),
        ([(1, 2, 3)], r"must be a pair \(start, end\), got \(1, 2, 3\)"),
        ([(1, 2), 3], "must be a pair"),
        ([(4, 2)], r"must start before it ends, got \(4, 2\)"),
        ([(np.nan, 2)], "must start before it ends"),
    ],
)
def test_region_errors(function, given_regions, message):
    with pytest.raises(ValueError, match=message):
        function(WAVELENGTH, given_regions)


def test_dispersion_must_be_one_dimensional():
    with pytest.raises(ValueError, match=r"dispersion must have shape \(pixel,\), got shape \(1, 10\)"):
        create_mask(WAVELENGTH[None], (2, 4))


def test_censors_check_name_length_and_kind():
    censors = Censors(("TEFF", "LOGG"), 10)
    assert censors == {}
    censors["TEFF"] = WAVELENGTH > 5
    censors.update({"LOGG": (WAVELENGTH > 5).astype(int)})
    assert censors["LOGG"].dtype == bool
    assert censors.setdefault("TEFF", WAVELENGTH > 7).sum() == 4
    del censors["TEFF"]
    assert censors.setdefault("TEFF", WAVELENGTH > 7).sum() == 2
    with pytest.raises(ValueError, match="unknown label 'FE_H' for censoring; the labels are TEFF, LOGG"):
        censors["FE_H"] = WAVELENGTH > 5
    for wrong in (np.ones(9, bool), np.ones((10, 1), bool), True):
        with pytest.raises(ValueError, match=r"mask of 'TEFF' must have shape \(10,\), got"):
            censors.update(TEFF=wrong)
    with pytest.raises(ValueError, match="mask of 'TEFF' must be boolean, got float64"):
        censors["TEFF"] = WAVELENGTH
    with pytest.raises(ValueError, match="unknown label 'FE_H'"):
        censors |= {"FE_H": WAVELENGTH > 5}
    assert set(censors) == {"TEFF", "LOGG"}
    with pytest.raises(ValueError, match="unknown label 'X'"):
        Censors(("TEFF",), 10, {"X": WAVELENGTH > 5})


@pytest.mark.parametrize("duplicate", [deepcopy, copy, lambda censors: pickle.loads(pickle.dumps(censors))])
def test_censors_can_be_copied_and_sent_to_other_processes(duplicate):
    censors = Censors(("TEFF", "LOGG"), 10, {"LOGG": WAVELENGTH > 5})
    other = duplicate(censors)
    assert type(other) is Censors
    assert_array_equal(other["LOGG"], censors["LOGG"])
    del other["LOGG"]
    assert "LOGG" in censors
    with pytest.raises(ValueError, match="unknown label 'FE_H'"):
        other["FE_H"] = WAVELENGTH > 5


def test_masks_are_copies():
    mask = WAVELENGTH > 5
    censors = Censors(("TEFF",), 10, {"TEFF": mask})
    mask[:] = False
    assert censors["TEFF"].sum() == 4


def test_every_term_with_a_censored_label_is_fixed():
    vectorizer = PolynomialVectorizer(("A", "B"), 2)
    free = design_matrix_mask(Censors(("A", "B"), 3, {"B": [True, False, False], "A": [True, True, False]}), vectorizer)
    assert vectorizer.readable_terms == ["1", "A", "B", "A^2", "A*B", "B^2"]
    assert_array_equal(free, [[1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1]])
