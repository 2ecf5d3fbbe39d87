"""Labels of spectra from catalogues: which row is whose, what is taken of it, and that nothing is lost unsaid."""

import numpy as np
import pytest
from astropy.table import Column, MaskedColumn, Table

from bayes_cannon.io import joining
from bayes_cannon.io.joining import join_labels
from bayes_cannon.io.spectra import Spectra


def _spectra(ids: list[str] | None, n: int = 2, **labels: list[float]) -> Spectra:
    return Spectra(
        np.ones((n, 3)),
        np.ones((n, 3)),
        star_id=None if ids is None else np.array(ids),
        labels={name: np.array(values) for name, values in labels.items()},
        units={"TEFF": "K"},
    )


@pytest.mark.parametrize("column", ["star_id", "STAR_ID"])
@pytest.mark.parametrize("dtype", [str, bytes])
def test_rows_are_matched_by_name(column, dtype):
    table = Table({column: np.array(["c", "b", "a"], dtype=dtype), "LOGG": [3, 2, 1], "NOTE": ["x", "y", "z"]})
    table["LOGG"].unit = "dex"
    joined = join_labels(_spectra(["a", "c"], TEFF=[5000.0, 4000.0]), table)
    assert joined.labels["LOGG"].tolist() == [1.0, 3.0]
    assert joined.labels["TEFF"].tolist() == [5000.0, 4000.0]
    assert set(joined.labels) == {"LOGG", "TEFF"}
    assert joined.units == {"TEFF": "K", "LOGG": "dex"}


def test_another_column_may_hold_the_names():
    table = Table({"APOGEE_ID": ["b ", "a"], "star_id": ["x", "y"], "LOGG": [2.0, 1.0]})
    assert join_labels(_spectra(["a", "b"]), table, id_column="APOGEE_ID").labels["LOGG"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="no column 'GAIA_ID'"):
        join_labels(_spectra(["a", "b"]), table, id_column="GAIA_ID")


def test_rows_are_matched_by_order_only_where_that_is_asked_for():
    table = Table({"star_id": ["b", "a"], "LOGG": [2.0, 1.0]})
    with pytest.raises(ValueError, match=r"the spectra have no names.*by_row"):
        join_labels(_spectra(None), table)
    joined = join_labels(_spectra(None), table, by_row=True)
    assert joined.labels["LOGG"].tolist() == [2, 1]
    assert joined.attrs["labels_joined"] == "by row"
    nameless = Table({"LOGG": [2.0, 1.0]})
    with pytest.raises(ValueError, match=r"no column of the label table holds the names.*such as 'a'.*by_row"):
        join_labels(_spectra(["a", "b"]), nameless)
    assert join_labels(_spectra(["a", "b"]), nameless, by_row=True).labels["LOGG"].tolist() == [2, 1]
    with pytest.raises(ValueError, match="3 rows and there are 2 spectra"):
        join_labels(_spectra(["a", "b"]), Table({"LOGG": [2.0, 1.0, 0.0]}), by_row=True)


@pytest.mark.parametrize(
    ("ids", "column"),
    [
        (["0", "1"], np.array([1, 0])),
        (["0", "1"], np.array(["1 ", " 0"])),
        (["0", "1"], np.array([b"1", b"0"])),
        (["2M1", "2M0"], np.array(["2M0", "2M1"])),
    ],
)
def test_names_are_found_by_what_a_column_holds(ids, column):
    """Whatever it is called, also where the names are those of the rows."""
    table = Table({"NOTE": ["x", "y"], "GAIA": column, "LOGG": [2.0, 1.0]})
    joined = join_labels(_spectra(ids), table)
    assert joined.labels["LOGG"].tolist() == [1, 2]
    assert joined.attrs["labels_joined"] == "by the column GAIA"


def test_names_in_two_columns_are_an_error_and_star_id_comes_first():
    both = {"A": ["b", "a"], "B": ["a", "b"], "LOGG": [2.0, 1.0]}
    with pytest.raises(ValueError, match=r"the columns A, B all hold the names.*id_column"):
        join_labels(_spectra(["a", "b"]), Table(both))
    assert join_labels(_spectra(["a", "b"]), Table(both | {"STAR_ID": ["b", "a"]})).labels["LOGG"].tolist() == [1, 2]


def test_missing_values_are_those_that_are_said_to_be():
    table = Table({"star_id": ["a", "b"], "LOGG": [-9999.0, 1.0]})
    assert join_labels(_spectra(["a", "b"]), table).labels["LOGG"].tolist() == [-9999, 1]
    labels = join_labels(_spectra(["a", "b"]), table, missing=[-9999]).labels["LOGG"]
    assert np.isnan(labels[0])
    assert labels[1] == 1


def test_table_wins_over_the_file():
    table = Table({"TEFF": [1.0, 2.0]})
    joined = join_labels(_spectra(["a", "b"], TEFF=[5000.0, 4000.0]), table, by_row=True)
    assert joined.labels["TEFF"].tolist() == [1, 2]
    assert joined.units == {}


def test_missing_and_repeated_names_are_errors():
    with pytest.raises(ValueError, match=r"1 of 2 stars are not in .*'b'"):
        join_labels(_spectra(["a", "b"]), Table({"star_id": ["a", "c"], "T": [1.0, 2.0]}))
    with pytest.raises(ValueError, match="'a' occurs more than once in the column 'star_id'"):
        join_labels(_spectra(["a", "b"]), Table({"star_id": ["a", "a", "b"], "T": [1.0, 2.0, 3.0]}))
    # Visits of a star have its labels each.
    visits = join_labels(_spectra(["a", "a"]), Table({"star_id": ["b", "a"], "T": [1.0, 2.0]}))
    assert visits.labels["T"].tolist() == [2, 2]
    # A star that is not wanted may occur twice.
    extra = Table({"star_id": ["z", "z", "a", "b"], "T": [0.0, 0.0, 1.0, 2.0]})
    assert join_labels(_spectra(["a", "b"]), extra).labels["T"].tolist() == [1, 2]


def _catalogue() -> Table:
    """Four rows of three stars as APOGEE has them: big-endian numbers, padded bytes, arrays, flags and truths."""
    return Table({
        "APOGEE_ID": np.array([b"2M00+1  ", b"2M00+2", b"2M00+1", b"2M00+3"]),
        "GAIA": np.array([4567890123456789013, 2, 4567890123456789014, 3], dtype=">i8"),
        "FIELD": np.array([b"M67   ", b"", b"N188", b"M67"]),
        "FPARAM": np.array([[4500, 2.5], [5000, 3], [4600, 2.6], [4700, 2.7]], dtype=">f4"),
        "COV": np.arange(16.0).reshape(4, 2, 2),
        "SNR": np.array([50.0, 80.0, 120.0, np.nan], dtype=">f4"),
        "STARFLAG": np.array([0, 512, 4, 0], dtype=">i4"),
        "BINARY": np.array([True, False, False, True]),
        "N": MaskedColumn([1, 2, 3, 4], mask=[False, True, False, False]),
    }, units={"FPARAM": "K", "SNR": "dex"})  # fmt: skip


def test_what_a_catalogue_holds_becomes_labels_and_identifiers():
    joined = join_labels(_spectra(["2M00+2", "2M00+3"]), _catalogue())
    assert {name: values.tolist() for name, values in joined.labels.items() if name not in ("SNR", "N")} == {
        "STARFLAG": [512.0, 0.0], "BINARY": [0.0, 1.0],
    }  # fmt: skip
    np.testing.assert_array_equal(joined.labels["SNR"], [80, np.nan])
    np.testing.assert_array_equal(joined.labels["N"], [np.nan, 4])
    assert all(values.dtype == np.dtype("=f8") for values in joined.labels.values())
    assert {name: values.tolist() for name, values in joined.identifiers.items()} == {
        "GAIA": ["2", "3"], "FIELD": ["", "M67"],
    }  # fmt: skip
    assert joined.units["SNR"] == "dex"


def test_all_digits_of_a_gaia_source_id_match():
    names = ["4567890123456789014", "3"]
    joined = join_labels(_spectra(names), _catalogue())
    assert joined.labels["STARFLAG"].tolist() == [4, 0]
    assert joined.identifiers["APOGEE_ID"].tolist() == ["2M00+1", "2M00+3"]
    masked = Table({"GAIA": MaskedColumn([4567890123456789014, 0, 3], mask=[0, 1, 0]), "T": [1.0, 2.0, 3.0]})
    assert join_labels(_spectra(names), masked).labels["T"].tolist() == [1, 3]
    # Small integers of which one is missing are numbers with NaN once a table was read.
    floats = Table({"OBSID": [7.0, np.nan, 3.0], "T": [1.0, 2.0, 3.0]})
    assert join_labels(_spectra(["3", "7"]), floats, id_column="OBSID").labels["T"].tolist() == [3, 1]


def test_one_number_of_an_array_is_a_label_where_it_is_asked_for():
    columns = {"TEFF": "FPARAM[0]", "LOGG": "FPARAM[1]", "C": "COV[0,1]", "SNREV": "SNR"}
    joined = join_labels(_spectra(["2M00+3", "2M00+2"], TEFF=[1.0, 2.0]), _catalogue(), columns=columns)
    assert joined.labels["TEFF"].tolist() == [4700, 5000]
    assert joined.labels["LOGG"].tolist() == [float(np.float32(2.7)), 3]
    assert joined.labels["C"].tolist() == [13, 5]
    np.testing.assert_array_equal(joined.labels["SNREV"], [np.nan, 80])
    assert joined.units == {"TEFF": "K", "LOGG": "K", "SNREV": "dex", "SNR": "dex"}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("FPARAM", r"no 'FPARAM': the column has arrays of shape \(2,\): its last number is FPARAM\[1\]"),
        ("FPARAM[2]", r"no 'FPARAM\[2\]': .* its last number is FPARAM\[1\]"),
        ("COV[1]", r"its last number is COV\[1,1\]"),
        ("SNR[0]", r"no 'SNR\[0\]': the column has one number a row"),
        ("fparam[0]", r"no column 'fparam'; it has APOGEE_ID, .*; did you mean 'FPARAM'\?"),
        ("FIELD", "'FIELD' of the label table holds no numbers"),
    ],
)
def test_places_that_are_not_there_are_named(place, said):
    with pytest.raises(ValueError, match=said):
        join_labels(_spectra(["2M00+2"], 1), _catalogue(), columns={"TEFF": place})


def test_which_of_several_rows_is_said_and_kept():
    spectra = _spectra(["2M00+1", "2M00+2"])
    with pytest.raises(ValueError, match=r"'2M00\+1' occurs more than once .* \(1 such stars .* 'first' or 'best'"):
        join_labels(spectra, _catalogue())
    first = join_labels(spectra, _catalogue(), duplicates="first")
    best = join_labels(spectra, _catalogue(), duplicates="best", best_by="SNR")
    assert first.labels["SNR"].tolist() == [50, 80]
    assert best.labels["SNR"].tolist() == [120, 80]
    assert first.attrs["labels_joined"] == (
        "by the column APOGEE_ID; of the rows of 1 stars with several the first was taken"
    )
    assert best.attrs["labels_joined"].endswith("stars with several that with the largest SNR was taken")
    by_number = join_labels(spectra, _catalogue(), duplicates="best", best_by="FPARAM[0]")
    assert by_number.labels["SNR"].tolist() == [120, 80]


def test_the_best_row_is_none_whose_value_is_unknown_and_the_first_of_equals():
    table = Table(
        {"star_id": ["a", "a", "a", "b", "b"], "SNR": [np.nan, 5.0, 5.0, np.nan, np.nan], "T": np.arange(5.0)}
    )
    joined = join_labels(_spectra(["a", "b"]), table, duplicates="best", best_by="SNR")
    assert joined.labels["T"].tolist() == [1, 3]


def test_stars_without_a_row_are_left_out_only_if_that_is_said():
    spectra = _spectra(["2M00+9", "2M00+3", "2M00+2"], 3, OLD=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"1 of 3 stars are not in .*'2M00\+9'.*unmatched = 'leave out'"):
        join_labels(spectra, _catalogue())
    joined = join_labels(spectra, _catalogue(), unmatched="leave out")
    assert joined.ids.tolist() == ["2M00+3", "2M00+2"]
    assert joined.labels["OLD"].tolist() == [2, 3]
    assert joined.labels["STARFLAG"].tolist() == [0, 512]
    assert joined.flux.shape == (2, 3)
    assert joined.attrs["labels_joined"] == "by the column APOGEE_ID; 1 of 3 spectra have no row and were left out"
    with pytest.raises(ValueError, match="2 of 2 stars are not in"):
        join_labels(_spectra(["x", "y"]), _catalogue(), id_column="APOGEE_ID", unmatched="leave out")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"duplicates": "last"}, "duplicates must be one of 'refuse', 'first', 'best'; got 'last'"),
        ({"unmatched": "drop"}, "unmatched must be one of 'refuse', 'leave out'; got 'drop'"),
        ({"duplicates": "best"}, "need each other"),
        ({"best_by": "SNR"}, "need each other"),
        ({"duplicates": "best", "best_by": "SNRE"}, "no column 'SNRE'.*did you mean 'SNR'"),
        ({"duplicates": "best", "best_by": "FIELD"}, "'FIELD' of the label table holds no numbers"),
        ({"id_column": "apogee_id"}, "did you mean 'APOGEE_ID'"),
    ],
)
def test_rules_are_checked(options, said):
    with pytest.raises(ValueError, match=said):
        join_labels(_spectra(["2M00+2"], 1), _catalogue(), **options)


def test_names_that_spectra_have_for_something_else_are_left_out():
    table = Table({"ID": ["a", "b"], "star_id": ["x", "y"], "pixel": ["p", "q"], "T": [1.0, 2.0]})
    joined = join_labels(_spectra(["a", "b"]), table, id_column="ID")
    assert not joined.identifiers
    assert joined.labels["T"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "column",
    [
        Column([7, 3, 3, 12]), Column(np.array([7, 200], dtype=np.uint8)), Column(np.array([-7, 12], dtype=np.int16)),
        Column(np.array([2**63 + 5, 7], dtype=np.uint64)), MaskedColumn([7, 3, 12], mask=[True, False, False]),
        Column([" a", "b\\0 ", "a", "c"]), Column([b"a ", b"7", b"c"]), Column(["007", " 7", "7.0"]),
        MaskedColumn(["a", "b"], mask=[False, True]), Column(np.array(["a ", 7, b"b"], dtype=object)),
    ],
)  # fmt: skip
def test_names_are_counted_as_they_are_compared(column):
    wanted = {"7", "007", "3", "12", "-7", "+3", "a", "b", "300", "-0", "\\u0663", str(2**63 + 5), "1" * 30}
    found = wanted & {str(name) for name in joining._names(column)}
    assert joining._n_found(wanted, column) == len(found)
    assert found
