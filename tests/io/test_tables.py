"""Label tables: what is written, what is read back, and how rows are matched to spectra."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable, Table

from bayes_cannon.io import tables
from bayes_cannon.io.joining import join_labels
from bayes_cannon.io.label_table import label_table
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.io.tables import read_table, write_table

NAMES = ("TEFF", "FE_H")
PARQUET = pytest.param(".parquet", marks=pytest.mark.skipif(find_spec("pyarrow") is None, reason="no pyarrow"))
WRITTEN = [".fits", ".ecsv", ".vot", PARQUET]


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


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".FITS"])
def test_round_trip_with_units_and_covariance(table, suffix, tmp_path):
    path = tmp_path / f"labels{suffix}"
    write_table(path, table)
    read = read_table(path)
    assert read.colnames == table.colnames
    for name in table.colnames:
        if table[name].dtype.kind in "fi":
            assert read[name].shape == table[name].shape
            assert np.array_equal(np.asarray(read[name], float), np.asarray(table[name], float), equal_nan=True)
        else:
            assert [str(text) for text in read[name]] == [str(text) for text in table[name]]
        assert str(read[name].unit or "") == str(table[name].unit or "")
    assert read.meta["MODEL"] == "my.model"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert table["FE_H"].unit == u.dex


def test_ecsv_is_a_quantity_table_for_others(table, tmp_path):
    write_table(tmp_path / "l.ecsv", table)
    read = QTable.read(tmp_path / "l.ecsv")
    assert read["TEFF"][0] == 5000 * u.K


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


def test_existing_table_and_other_suffixes_are_refused(table, tmp_path):
    path = tmp_path / "l.fits"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_table(path, table)
    assert path.read_text() == "precious"
    write_table(path, table, overwrite=True)
    assert len(read_table(path)) == 3
    for name in ("l.csv", "l.txt", "l"):
        with pytest.raises(ValueError, match=r"written as \.fits, \.ecsv, \.vot or \.parquet"):
            write_table(tmp_path / name, table)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_failed_write_leaves_nothing(table, suffix, tmp_path, monkeypatch):
    def fails(path, table):
        path.touch()
        raise OSError("disk full")

    monkeypatch.setitem(tables._WRITERS, suffix, fails)
    with pytest.raises(OSError, match="disk full"):
        write_table(tmp_path / f"l{suffix}", table)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.fits", "x.ecsv", "x.csv"])
def test_unreadable_table_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x00\x01 not a table, is it\n\n\x00")
    with pytest.raises(ValueError, match=f"cannot read the table .*{name}"):
        read_table(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no table"):
        read_table(tmp_path / f"no_{name}")


def test_unknown_table_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of \.fits"):
        read_table(tmp_path / "t.xlsx")


def test_missing_values_of_a_csv_are_nan(tmp_path):
    (tmp_path / "t.csv").write_text("star_id,TEFF,N\na,5000,1\nb,,\n")
    read = read_table(tmp_path / "t.csv")
    assert read["TEFF"][0] == 5000
    assert np.isnan(read["TEFF"][1])
    assert np.isnan(read["N"][1])


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


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfstar_id,LOGG\nb,2\na,1\n")
    table = read_table(tmp_path / "t.csv")
    assert table.colnames == ["star_id", "LOGG"]
    assert join_labels(_spectra(["a", "b"]), table).labels["LOGG"].tolist() == [1, 2]


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
