"""Tables in files: a round trip of every bit, catalogues as surveys publish them, and errors that name a bad file."""

import gzip
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits, votable
from astropy.table import MaskedColumn, QTable, Table

from bayes_cannon.io import tables
from bayes_cannon.io.tables import read_table, write_table

needs_pyarrow = pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed")
PARQUET, X_PARQUET = (pytest.param(name, marks=needs_pyarrow) for name in (".parquet", "x.parquet"))
WRITTEN = [".fits", ".ecsv", ".vot", PARQUET]


@pytest.fixture
def table() -> Table:
    """What label tables hold, and what is hard about it."""
    made = Table({
        "star_id": ["a", "", "nan"],
        "GAIA": np.array([4567890123456789013, 2, -3]),
        "TEFF": [5000.1, np.nan, -0.0],
        "LOGG": [np.inf, 5e-324, 1 / 3],
        "LOGG_ERR": np.array([1, 2, 1 / 3], dtype=np.float32),
        "FE_H": [1.0, 2.0, 3.0],
        "covariance": np.arange(12.0).reshape(3, 2, 2),
        "status": np.array([0, 1, 3], dtype=np.int16),
        "good": [True, False, True],
        "text": ['"quoted", with commas', "None", "it's --"],
        "nothing": ["", "", ""],
    })  # fmt: skip
    made["TEFF"].unit, made["GAIA"].unit, made["LOGG_ERR"].unit = "K", "km/s", "dex"
    made["LOGG"].unit = u.Unit("log(cm.s**-2)", parse_strict="silent")
    made["FE_H"].unit = u.dex(u.cm / u.s**2)
    made.meta = {"MODEL": "my.model", "N": 3, "X": 0.1, "TRAINING": '{"recipe": "it\'s"}' + 300 * "x"}
    return made


@pytest.mark.parametrize("suffix", [*WRITTEN, ".FITS"])
def test_round_trip_of_every_bit(table, suffix, tmp_path):
    path = tmp_path / f"labels{suffix}"
    write_table(path, table)
    read = read_table(path)
    if suffix == ".parquet":
        del table["covariance"]
    assert read.colnames == table.colnames
    for name in table.colnames:
        one, other = np.asarray(table[name]), np.asarray(read[name])
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()
        assert read[name].unit == table[name].unit
        assert str(read[name].unit) == str(table[name].unit)
    assert dict(read.meta) == table.meta
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert table["LOGG_ERR"].unit == u.dex


def test_others_read_what_was_written(table, tmp_path):
    for suffix in (".ecsv", ".vot", *([".parquet"] if find_spec("pyarrow") else [])):
        write_table(tmp_path / f"l{suffix}", table)
        assert QTable.read(tmp_path / f"l{suffix}")["TEFF"][0] == 5000.1 * u.K
    write_table(tmp_path / "l.fits", table)
    header = fits.getheader(tmp_path / "l.fits", 1)
    assert [header[f"TUNIT{k}"] for k in (3, 4, 5)] == ["K", "log(cm.s**-2)", "dex"]


def test_what_a_format_cannot_hold_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"l\.fits: FITS holds ASCII only, and the column 'star_id'.*write \.ecsv"):
        write_table(tmp_path / "l.fits", Table({"star_id": ["σ Ori"]}))
    with pytest.raises(ValueError, match="does not tell the columns 'A' and 'a' apart"):
        write_table(tmp_path / "l.fits", Table({"A": [1], "a": [2]}))
    for suffix in (".ecsv", ".vot"):
        write_table(tmp_path / f"l{suffix}", Table({"star_id": ["σ Ori"], "STAR_ID": [1]}))
        assert read_table(tmp_path / f"l{suffix}")["star_id"][0] == "σ Ori"
    assert not (tmp_path / "l.fits").exists()


@needs_pyarrow
def test_parquet_refuses_other_arrays(tmp_path):
    with pytest.raises(ValueError, match="Parquet has no column like 'F', of several dimensions"):
        write_table(tmp_path / "l.parquet", Table({"F": np.ones((2, 3))}))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").touch()
    with pytest.raises(ImportError, match=r"t\.parquet needs .* install bayes-cannon\[parquet\]"):
        read_table(tmp_path / "t.parquet")
    with pytest.raises(ImportError, match=r"install bayes-cannon\[parquet\]"):
        tables.check_table_suffix(tmp_path / "l.parquet")


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


@pytest.mark.parametrize("name", ["x.fits", "x.ecsv", "x.csv", "x.vot", X_PARQUET])
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


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfstar_id,LOGG\nb,2\na,1\n")
    table = read_table(tmp_path / "t.csv")
    assert table.colnames == ["star_id", "LOGG"]


def _survey_fits(path) -> None:
    """An empty table, one of stars and one of settings, as in allStar files: big-endian, padded, some missing."""
    stars = fits.BinTableHDU.from_columns(
        [
            fits.Column("APOGEE_ID", "12A", array=np.array(["2M00+1", "2M00+2", ""])),
            fits.Column("TEFF", "E", unit="'K'", array=np.array([4500, np.nan, 5000])),
            fits.Column("LOGG", "D", unit="log(cm.s**-2)", array=np.array([1.0, 2.0, 3.0])),
            fits.Column("NVISITS", "J", null=-1, array=np.array([3, -1, 5])),
            fits.Column("GAIA", "K", null=-1, array=np.array([4567890123456789013, -1, 5])),
            fits.Column("STARFLAG", "J", array=np.array([0, 512, 4])),
            fits.Column("FPARAM", "3E", array=np.arange(9.0).reshape(3, 3)),
            fits.Column("GOOD", "L", array=np.array([True, False, True])),
        ],
        name="STARS",
    )
    none = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=np.empty(0, int))], name="NONE")
    settings = fits.BinTableHDU.from_columns([fits.Column("B", "J", array=np.array([7]))], name="SETTINGS")
    fits.HDUList([fits.PrimaryHDU(), none, stars, settings]).writeto(path)


def _check_survey(read: Table) -> None:
    assert read["APOGEE_ID"].tolist() == ["2M00+1", "2M00+2", ""]
    assert read["TEFF"].unit == u.K
    assert str(read["LOGG"].unit) == "log(cm.s**-2)"
    np.testing.assert_array_equal(read["TEFF"], [4500, np.nan, 5000])
    np.testing.assert_array_equal(read["NVISITS"], [3, np.nan, 5])
    assert read["GAIA"].tolist() == [4567890123456789013, None, 5]
    assert read["STARFLAG"].tolist() == [0, 512, 4]
    assert read["FPARAM"].shape == (3, 3)
    assert read["GOOD"].tolist() == [True, False, True]
    assert all(read[name].dtype.isnative for name in read.colnames)


def test_a_survey_catalogue_in_fits(tmp_path):
    path = tmp_path / "allStar.fits"
    _survey_fits(path)
    _check_survey(read_table(path))
    _check_survey(read_table(f"{path}[2]"))
    _check_survey(read_table(f"{path}[stars]"))
    assert read_table(f"{path}[SETTINGS]")["B"].tolist() == [7]
    with pytest.raises(ValueError, match=r"no table in HDU 'PARAMS'; it has 1 NONE, 2 STARS, 3 SETTINGS"):
        read_table(f"{path}[PARAMS]")
    with pytest.raises(ValueError, match=r"allStar\.fits has no rows"):
        read_table(f"{path}[1]")
    fits.PrimaryHDU(np.ones((2, 2))).writeto(tmp_path / "image.fits")
    with pytest.raises(ValueError, match=r"image\.fits: it has no table; it has none"):
        read_table(tmp_path / "image.fits")


def test_gzipped_whatever_the_suffix_says(tmp_path):
    _survey_fits(tmp_path / "plain.fits")
    for name in ("a.fits.gz", "b.fits"):
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / "plain.fits").read_bytes()))
        _check_survey(read_table(tmp_path / name))
    _check_survey(read_table(f"{tmp_path / 'a.fits.gz'}[2]"))
    for name, text in (("t.csv.gz", "star_id,TEFF\na,5000\n"), ("t.ecsv.gz", _ECSV)):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        assert read_table(tmp_path / name)["TEFF"].tolist() == [5000]


_ECSV = """# %ECSV 1.0
# ---
# datatype:
# - {name: star_id, datatype: string}
# - {name: TEFF, unit: K, datatype: int64}
# schema: astropy-2.0
star_id TEFF
a 5000
"""


def test_a_votable_of_an_archive(tmp_path):
    """Texts of any length, missing integers, and a second table, as TAP services send them."""
    path = tmp_path / "t.xml"
    first = Table({"A": [1]})
    first.meta["name"] = "none"
    second = Table({
        "source_id": MaskedColumn([4567890123456789013, 0], mask=[False, True]),
        "name": np.array(["a", "Barnard's star"], dtype=object),
        "n": MaskedColumn([1, 2], mask=[True, False]),
    })  # fmt: skip
    tree = votable.from_table(first)
    tree.resources.append(votable.from_table(second).resources[0])
    tree.resources[1].tables[0].name = "stars"
    tree.to_xml(str(path))
    for place in (f"{path}[stars]", f"{path}[1]"):
        read = read_table(place)
        assert read["source_id"].tolist() == [4567890123456789013, None]
        assert read["name"].tolist() == ["a", "Barnard's star"]
        np.testing.assert_array_equal(read["n"], [np.nan, 2])
    assert read_table(path)["A"].tolist() == [1]
    with pytest.raises(ValueError, match="no table in table 'x'"):
        read_table(f"{path}[x]")


@needs_pyarrow
def test_a_parquet_file_of_others(tmp_path):
    """As pandas and data bases write them: no value, categories, times, lists, units by column or by VOTable."""
    import pyarrow as pa
    from pyarrow import parquet

    fields = [
        pa.field("TEFF", pa.float32(), metadata={"unit": "K"}),
        pa.field("id", pa.int64()),
        pa.field("n", pa.int8()),
    ]
    numbers = [[4500, None, 5000], [4567890123456789013, None, 5], [1, None, 3]]
    arrays = [pa.array(values, field.type) for values, field in zip(numbers, fields, strict=True)]
    others = {
        "kind": pa.array(["RGB", None, "RGB"]).dictionary_encode(),
        "good": pa.array([True, None, False]),
        "price": pa.array([1, 2, None], pa.int32()).cast(pa.decimal128(12, 2)),
        "list": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        "ragged": pa.array([[1.0], [], None]),
        "day": pa.array([0, 1, None], pa.date32()),
    }
    fields += [pa.field(name, values.type) for name, values in others.items()]
    folder = tmp_path / "year=2024"
    folder.mkdir()
    parquet.write_table(
        pa.Table.from_arrays([*arrays, *others.values()], schema=pa.schema(fields)), folder / "t.parquet"
    )
    read = read_table(folder / "t.parquet")
    assert read.colnames == ["TEFF", "id", "n", *others]
    assert read["TEFF"].unit == u.K
    np.testing.assert_array_equal(read["TEFF"], [4500, np.nan, 5000])
    assert read["id"].tolist() == [4567890123456789013, None, 5]
    np.testing.assert_array_equal(read["n"], [1, np.nan, 3])
    assert read["kind"].tolist() == ["RGB", "", "RGB"]
    np.testing.assert_array_equal(read["good"], [1, np.nan, 0])
    np.testing.assert_array_equal(read["price"], [1, 2, np.nan])
    assert read["list"].shape == (3, 2)
    assert read["ragged"].dtype == object
    assert read["day"].tolist() == ["1970-01-01", "1970-01-02", ""]

    Table({"v": [1.0]}).write(tmp_path / "vo.parquet", format="parquet.votable", metadata={"v": {"unit": "km/s"}})
    assert read_table(tmp_path / "vo.parquet")["v"].unit == u.km / u.s
    with pytest.raises(ValueError, match=r"holds one table: leave \[1\] out"):
        read_table(f"{tmp_path / 'vo.parquet'}[1]")


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".vot", ".csv", ".fits.gz", ".csv.gz", PARQUET])
def test_empty_and_truncated_files_are_named(suffix, tmp_path):
    many = Table({"star_id": [f"2M{k}" for k in range(300)], "F": np.random.default_rng(0).normal(size=300)})
    whole = tmp_path / f"whole{suffix.removesuffix('.gz')}"
    if suffix.startswith(".csv"):
        many.write(whole, format="ascii.csv")
    else:
        write_table(whole, many)
    content = gzip.compress(whole.read_bytes()) if suffix.endswith(".gz") else whole.read_bytes()
    path = tmp_path / f"cut{suffix}"
    # A text of rows does not say how many there are: cut at the end of one, or in a number, it is whole.
    for share in (0, 0.3, 0.6, 0.99)[: 1 if suffix in (".ecsv", ".csv") else 4]:
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=rf"the table .*cut\{suffix}") as caught:
            read_table(path)
        assert caught.type is ValueError


@pytest.mark.parametrize("suffix", [*WRITTEN, ".csv"])
def test_a_table_without_rows_is_an_error(suffix, tmp_path):
    path = tmp_path / f"t{suffix}"
    if suffix == ".csv":
        path.write_text("star_id,TEFF\n")
    else:
        write_table(path, Table({"star_id": np.empty(0, dtype="U3"), "TEFF": np.empty(0)}))
    with pytest.raises(ValueError, match=rf"t\{suffix} has no rows: give one with a row a star"):
        read_table(path)
