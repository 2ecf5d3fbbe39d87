"""The table of inferred labels: its columns, units and errors."""

from pkgutil import iter_modules
from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Table

import bayes_cannon.io
from bayes_cannon.io.label_tables import label_table

NAMES = ("TEFF", "FE_H")


@pytest.fixture
def fit() -> SimpleNamespace:
    """Three stars: fitted, without a covariance of the second label, and without information."""
    nan = np.nan
    return SimpleNamespace(
        labels=np.array([[5000.0, 0.1], [4500.0, -1.0], [nan, nan]]),
        covariance=np.array([[[400.0, 0.1], [0.1, 0.01]], [[100.0, nan], [nan, -1e-9]], np.full((2, 2), nan)]),
        chi_squared=np.array([10.0, 20.0, nan]),
        reduced_chi_squared=np.array([1.0, 2.0, nan]),
        n_pixels=np.array([12, 12, 0]),
        snr=np.array([100.0, 50.0, nan]),
        status=np.array([0, 1, 3]),
    )


@pytest.fixture
def table(fit) -> Table:
    return label_table(
        NAMES,
        fit,
        star_id=np.array(["a", "b", "ccc"]),
        label_units={"TEFF": "K", "FE_H": "dex"},
        extra={"TEFF_REFERENCE": np.array([5010.0, 4400.0, 4000.0])},
        meta={"MODEL": "my.model"},
    )


def test_errors_are_in_label_units_and_never_invented(table):
    assert table["TEFF"].unit == table["TEFF_ERR"].unit == u.K
    assert table["FE_H_ERR"].unit == u.dex
    assert table["TEFF_ERR"][:2].tolist() == [20.0, 10.0]
    assert table["FE_H_ERR"][0] == pytest.approx(0.1)
    assert np.isnan(table["FE_H_ERR"][1])
    assert np.isnan(table["TEFF_ERR"][2])
    assert table["covariance"].shape == (3, 2, 2)
    assert table["status_text"][2].startswith("no pixel has a positive ivar")


def test_correlations_are_covariances_over_both_errors(table):
    correlation = table["TEFF_FE_H_CORR"]
    assert correlation[0] == pytest.approx(0.1 / (20 * 0.1))
    assert np.isnan(correlation[1:]).all()
    assert correlation.unit is None


def test_every_pair_of_labels_has_its_correlation(fit):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3, 3))
    fit.labels, fit.covariance = np.ones((3, 3)), root @ root.transpose(0, 2, 1)
    table = label_table(("A", "B", "C"), fit)
    assert [name for name in table.colnames if "CORR" in name] == ["A_B_CORR", "A_C_CORR", "B_C_CORR"]
    for pair, (i, j) in {"A_B": (0, 1), "A_C": (0, 2), "B_C": (1, 2)}.items():
        back = table[f"{pair}_CORR"] * table[f"{pair[0]}_ERR"] * table[f"{pair[2]}_ERR"]
        np.testing.assert_allclose(back, fit.covariance[:, i, j], rtol=1e-14)


def test_identifiers_stand_after_the_name(fit):
    identifiers = {"SOURCE_ID": np.array(["4567890123456789012", "2", ""]), "Status": np.array(["x", "y", "z"])}
    table = label_table(NAMES, fit, star_id=np.array(["a", "b", "c"]), identifiers=identifiers)
    assert table.colnames[:4] == ["star_id", "SOURCE_ID", "Status_ID", "TEFF"]
    assert table["SOURCE_ID"].tolist() == ["4567890123456789012", "2", ""]
    assert table["Status_ID"].tolist() == ["x", "y", "z"]
    assert table["status"].tolist() == [0, 1, 3]


def test_no_star_is_a_table_too(tmp_path):
    none = SimpleNamespace(
        labels=np.empty((0, 1)), covariance=np.empty((0, 1, 1)), chi_squared=np.empty(0),
        reduced_chi_squared=np.empty(0), n_pixels=np.empty(0, int), snr=np.empty(0), status=np.empty(0, int),
    )  # fmt: skip
    assert len(label_table(("A",), none)) == 0


def test_shapes_and_names_are_checked(fit):
    with pytest.raises(ValueError, match=r"shapes \(star, 3\) and \(star, 3, 3\)"):
        label_table(("A", "B", "C"), fit)
    with pytest.raises(ValueError, match="'snr' would occur twice"):
        label_table(("snr", "B"), fit)
    with pytest.raises(ValueError, match="'x' must have 3 rows"):
        label_table(NAMES, fit, extra={"x": np.ones(2)})
    with pytest.raises(ValueError, match="'star_id' must have 3 rows"):
        label_table(NAMES, fit, star_id=np.array(["a"]))


def test_public_names_are_not_those_of_modules():
    """A module of that name would take the place of the function, which is imported late, once anything imported it."""
    modules = {module.name for module in iter_modules(bayes_cannon.io.__path__)}
    assert not modules & set(bayes_cannon.io.__all__)
