from collections import UserDict

import numpy as np
import numpy.ma as ma
import pandas as pd
import pytest
import xarray as xr
from astropy import units as u
from astropy.table import MaskedColumn, QTable, Table
from astropy.utils.masked import Masked
from numpy.testing import assert_allclose

from bayes_cannon.core.labels import all_label_names, label_array, label_rows, label_units

NAMES = ("TEFF", "LOGG", "FE_H")
VALUES = np.array([[4500.0, 2.5, -0.25], [5000.0, 3.0, 0.0], [4750.0, 1.5, 0.125], [4000.0, 0.5, -1.0]])
SHUFFLED = ("FE_H", "OTHER", "TEFF", "LOGG")


def columns():
    by_name = dict(zip(NAMES, VALUES.T, strict=True), OTHER=np.full(4, np.nan))
    return {name: by_name[name] for name in SHUFFLED}


def structured(kind="<f8"):
    array = np.zeros(4, dtype=[(name, kind) for name in SHUFFLED])
    for name, values in columns().items():
        array[name] = values
    return array


CONTAINERS = {
    "array": lambda: VALUES,
    "nested list": lambda: VALUES.tolist(),
    "float32": lambda: VALUES.astype(np.float32),
    "structured": structured,
    "big-endian structured": lambda: structured(">f4"),
    "record array": lambda: structured().view(np.recarray),
    "dict": columns,
    "dict of lists": lambda: {name: values.tolist() for name, values in columns().items()},
    "mapping": lambda: UserDict(columns()),
    "astropy Table": lambda: Table(columns()),
    "masked Table without masked values": lambda: Table(columns(), masked=True),
    "QTable": lambda: QTable({**columns(), "TEFF": VALUES[:, 0] * u.K}),
    "DataFrame": lambda: pd.DataFrame(columns()),
    "DataFrame with another index": lambda: pd.DataFrame(columns(), index=[7, 5, 3, 9]),
    "DataFrame of nullable floats": lambda: pd.DataFrame(columns()).astype("Float64"),
}


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_every_container_gives_the_same_array_in_the_order_of_the_names(make):
    container = make()
    array = label_array(container, NAMES)
    assert array.dtype == np.float64
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, VALUES)
    array[:] = 0
    np.testing.assert_array_equal(label_array(container, NAMES), VALUES)


@pytest.mark.parametrize("name", ["structured", "dict", "astropy Table", "DataFrame"])
def test_columns_follow_the_names_not_the_container(name):
    np.testing.assert_array_equal(label_array(CONTAINERS[name](), NAMES[::-1]), VALUES[:, ::-1])


def test_integers_become_floats():
    assert label_array({"TEFF": np.array([4500, 5000])}, ["TEFF"]).tolist() == [[4500.0], [5000.0]]
    assert label_array({"TEFF": [4500, 5000]}, ["TEFF"]).dtype == np.float64


@pytest.mark.parametrize("values", [[4500.0, 5000.0], np.array([4500, 5000]), pd.Series([4500.0, 5000.0])])
def test_one_label_may_be_one_dimensional(values):
    assert label_array(values, ("TEFF",)).tolist() == [[4500.0], [5000.0]]


def test_one_dimension_for_several_labels_is_refused():
    with pytest.raises(ValueError, match=r"shape \(star, 3\).*TEFF, LOGG, FE_H; got shape \(3,\)"):
        label_array(VALUES[0], NAMES)


@pytest.mark.parametrize("labels", [VALUES[:, :2], VALUES[None], np.float64(3.0)])
def test_wrong_shape_is_refused(labels):
    with pytest.raises(ValueError, match=r"labels must have shape \(star, 3\)"):
        label_array(labels, NAMES)


def test_no_star_is_refused():
    with pytest.raises(ValueError, match=r"no star, got shape \(0, 3\)"):
        label_array(np.zeros((0, 3)), NAMES)
    with pytest.raises(ValueError, match="no star"):
        label_array(pd.DataFrame({name: [] for name in NAMES}, dtype=float), NAMES)


@pytest.mark.parametrize("name", ["structured", "dict", "astropy Table", "DataFrame"])
def test_a_missing_name_is_named_with_the_nearest_one(name):
    with pytest.raises(ValueError, match=r"no column 'TEF'; the columns are FE_H, OTHER, TEFF, LOGG; did you mean"):
        label_array(CONTAINERS[name](), ("TEF",))


def test_duplicate_names_are_refused():
    with pytest.raises(ValueError, match="'TEFF' occurs more than once"):
        label_array(columns(), ("TEFF", "LOGG", "TEFF"))
    doubled = pd.DataFrame(VALUES, columns=["TEFF", "TEFF", "FE_H"])
    with pytest.raises(ValueError, match="2 columns named 'TEFF'"):
        label_array(doubled, ("TEFF",))
    assert label_array(doubled, ("FE_H",)).shape == (4, 1)


@pytest.mark.parametrize("names", ["TEFF", ()])
def test_text_or_nothing_instead_of_names_is_refused(names):
    with pytest.raises(ValueError, match="label_names"):
        label_array(VALUES, names)


def test_columns_of_different_length_or_dimension_are_refused():
    with pytest.raises(ValueError, match="'TEFF' has 4 stars and 'LOGG' has 3"):
        label_array({**columns(), "LOGG": np.zeros(3)}, NAMES)
    with pytest.raises(ValueError, match=r"'LOGG' must have one value per star.*\(4, 2\)"):
        label_array({**columns(), "LOGG": np.zeros((4, 2))}, NAMES)
    with pytest.raises(ValueError, match=r"'TEFF' must have one value per star.*\(\)"):
        label_array({"TEFF": 4500.0}, ["TEFF"])


@pytest.mark.parametrize(
    "values",
    [
        ["4500", "5000"],
        np.array([b"4500", b"5000"]),
        np.array(["4500", 5000], dtype=object),
        np.array([True, False]),
        np.array([1 + 2j, 3]),
        np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]"),
    ],
)
@pytest.mark.parametrize("wrap", [dict, Table, pd.DataFrame])
def test_values_that_are_no_numbers_are_refused(values, wrap):
    with pytest.raises(ValueError, match="label 'TEFF' must be real numbers, got values of type"):
        label_array(wrap({"TEFF": values}), ["TEFF"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_named_with_label_and_row(bad):
    labels = VALUES.copy()
    labels[2, 1] = labels[3, 2] = bad
    with pytest.raises(ValueError, match=rf"'LOGG' at 1 of 4 stars: rows 2 \({bad}\); 'FE_H' at 1 of 4 stars: rows 3"):
        label_array(labels, NAMES)


def test_of_many_bad_rows_the_first_are_shown():
    with pytest.raises(ValueError, match=r"'TEFF' at 9 of 10 stars: rows 1 \(nan\), 2 .* 5 \(nan\), \.\.\."):
        label_array(np.array([[1.0]] + [[np.nan]] * 9), ["TEFF"])


MASKED = {
    "masked float column": lambda: Table({"TEFF": MaskedColumn([1.0, 2.0, 3.0], mask=[0, 1, 0])}),
    "masked integer column": lambda: Table({"TEFF": MaskedColumn([1, 2, 3], mask=[0, 1, 0])}),
    "masked quantity": lambda: QTable({"TEFF": Masked([1.0, 2.0, 3.0], mask=[False, True, False]) * u.K}),
    "masked array": lambda: ma.array([[1.0], [2.0], [3.0]], mask=[[0], [1], [0]]),
    "masked structured array": lambda: ma.array(
        np.array([(1,), (2,), (3,)], dtype=[("TEFF", "i4")]), mask=[(False,), (True,), (False,)]
    ),
    "nullable integers": lambda: pd.DataFrame({"TEFF": pd.array([1, None, 3], dtype="Int64")}),
    "None": lambda: {"TEFF": [1.0, None, 3.0]},
    "missing value": lambda: pd.DataFrame({"TEFF": [1.0, None, 3.0]}),
}


@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED.keys())
def test_masked_values_are_no_numbers(make):
    with pytest.raises(ValueError, match=r"NaN, masked or infinite 'TEFF' at 1 of 3 stars: rows 1 \(nan\)"):
        label_array(make(), ["TEFF"])


def test_units_are_read_where_present():
    table = Table(columns())
    table["TEFF"].unit = "K"
    table["LOGG"].unit = u.dex
    table["FE_H"].unit = u.dimensionless_unscaled
    assert label_units(table, NAMES) == {"TEFF": "K", "LOGG": "dex"}
    assert label_units(QTable(table), ("TEFF",)) == {"TEFF": "K"}
    assert label_units({"TEFF": [4500.0] * u.K, "LOGG": [2.0]}, ("TEFF", "LOGG")) == {"TEFF": "K"}


@pytest.mark.parametrize("name", ["array", "nested list", "structured", "dict", "DataFrame"])
def test_other_containers_have_no_units(name):
    assert label_units(CONTAINERS[name](), NAMES) == {}


def test_units_of_an_unknown_label_are_refused():
    with pytest.raises(ValueError, match="no column 'ALPHA'"):
        label_units(Table(columns()), ("ALPHA",))


def test_all_names_are_those_of_the_columns():
    for name in ("structured", "dict", "astropy Table", "DataFrame"):
        assert all_label_names(CONTAINERS[name]()) == list(SHUFFLED)
    assert all_label_names(VALUES) == ["column 0", "column 1", "column 2"]
    assert all_label_names(VALUES[:, 0]) == ["column 0"]


ROWS = np.array([[4500.0, 2.5], [5000.0, 3.5]])
NAMED_ROWS = {
    "DataFrame": pd.DataFrame({"LOGG": ROWS[:, 1], "TEFF": ROWS[:, 0]}),
    "Table": Table({"LOGG": ROWS[:, 1], "TEFF": ROWS[:, 0]}),
    "Table with units": Table({"LOGG": ROWS[:, 1], "TEFF": ROWS[:, 0] / 1e3}, units={"TEFF": "kK"}),
    "dict": {"LOGG": ROWS[:, 1], "TEFF": ROWS[:, 0]},
    "records": np.array([(2.5, 4500.0), (3.5, 5000.0)], dtype=[("LOGG", float), ("TEFF", float)]),
    "Dataset": xr.Dataset({"LOGG": ("star", ROWS[:, 1]), "TEFF": ("star", ROWS[:, 0])}),
    "DataArray": xr.DataArray(ROWS[:, ::-1], dims=("star", "label"), coords={"label": ["LOGG", "TEFF"]}),
    "DataArray, label first": xr.DataArray(ROWS.T[::-1], dims=("name", "star"), coords={"name": ["LOGG", "TEFF"]}),
    "array": ROWS,
}


@pytest.mark.parametrize("labels", NAMED_ROWS.values(), ids=NAMED_ROWS)
def test_rows_are_read_by_name(labels):
    assert_allclose(label_rows(labels, ("TEFF", "LOGG"), {"TEFF": "K"}), ROWS)


ONE_STAR = {
    "dict": {"LOGG": 2.5, "TEFF": 4500.0},
    "row of a DataFrame": NAMED_ROWS["DataFrame"].iloc[0],
    "row of a Table": NAMED_ROWS["Table"][0],
    "record": NAMED_ROWS["records"][0],
    "array": ROWS[0],
}


@pytest.mark.parametrize("labels", ONE_STAR.values(), ids=ONE_STAR)
def test_one_star_is_a_row(labels):
    assert_allclose(label_rows(labels, ("TEFF", "LOGG")), ROWS[:1])


def test_labels_are_converted_to_the_units_wanted():
    table = Table({"TEFF": [4.5, 5.0], "LOGG": [1.0, 2.0]}, units={"TEFF": "kK", "LOGG": "dex"})
    assert_allclose(label_array(table, ("TEFF", "LOGG"), {"TEFF": "K", "LOGG": "dex"}), [[4500, 1], [5000, 2]])
    with pytest.raises(ValueError, match="'TEFF' has the unit kK, which cannot be converted to m"):
        label_array(table, ("TEFF",), {"TEFF": "m"})


@pytest.mark.parametrize("value", [-9999.0, np.float32(-9999.99), -999.0, 99.99, 9999.0, -32768.0])
def test_what_stands_for_a_missing_label_is_refused(value):
    fe_h = np.linspace(-1, 0.5, 20)
    fe_h[[3, 7]] = value
    with pytest.raises(ValueError, match=r"'FE_H' is .* at 2 of 20 stars \(rows 3, 7\), far from all others"):
        label_array({"FE_H": fe_h}, ("FE_H",))


def test_real_values_that_look_like_missing_ones_are_kept():
    velocity = np.append(np.linspace(-250, 150, 21), -99.0)
    teff = np.append(np.linspace(3500, 12000, 21), 9999.0)
    assert len(label_array({"RV": velocity, "TEFF": teff}, ("RV", "TEFF"))) == 22
