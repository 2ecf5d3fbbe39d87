"""Gaia XP and RVS spectra in the formats and structures of the archive."""

import gzip

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.io.votable.tree import Param, VOTableFile
from astropy.table import Column, MaskedColumn, Table

from bayes_cannon.io.readers.gaia import RVS, XP_SAMPLED

SOURCES = np.array([4594961454434214144, 30343944744320, 6344493361434378624])
GRIDS = {XP_SAMPLED: 336 + 2.0 * np.arange(343), RVS: 846 + 0.01 * np.arange(2401)}
PRODUCTS = pytest.mark.parametrize("product", [XP_SAMPLED, RVS], ids=["xp", "rvs"])


def spectra_of(product, n=3):
    rng = np.random.default_rng(5)
    flux = rng.normal(1, 0.1, (n, GRIDS[product].size)) * (1e-16 if product is XP_SAMPLED else 1)
    return flux, np.abs(flux) / 20


def as_text(row, brackets="()"):
    return f"{brackets[0]}{', '.join(repr(float(value)) for value in row)}{brackets[1]}"


def raw_table(product, n=3):
    flux, error = spectra_of(product, n)
    table = Table({"source_id": SOURCES[:n], "solution_id": np.full(n, 42), "ra": [10.5, 20.5, 30.5][:n]})
    if product is RVS:
        table["combined_transits"] = np.arange(n)
    table["flux"], table["flux_error"] = flux, error
    return table


def write_raw_csv(path, product, *, brackets="()", packed=False):
    table = raw_table(product)
    rows = [",".join(table.colnames)]
    for row in table:
        cells = [f'"{as_text(cell, brackets)}"' if np.ndim(cell) else str(cell) for cell in row]
        rows.append(",".join(cells))
    with gzip.open(path, "wt") if packed else open(path, "w") as file:
        file.write("\n".join(rows) + "\n")
    return path


def check(product, spectra, n=3, *, exact=True):
    flux, error = spectra_of(product, n)
    (segment,) = spectra.segments
    np.testing.assert_allclose(segment.wavelength, 10 * GRIDS[product], rtol=1e-12)
    tolerance = 0 if exact else 1e-6
    np.testing.assert_allclose(segment.flux, flux, rtol=tolerance)
    np.testing.assert_allclose(segment.noise, error, rtol=tolerance)
    assert segment.mask is None
    assert list(spectra.star_id) == [str(source) for source in SOURCES[:n]]
    assert spectra.noise_kind == "error"
    assert spectra.medium == "vacuum"
    assert spectra.reader == product.name
    if product is RVS:
        assert (spectra.frame, spectra.flux_unit) == ("rest", "")
        assert (spectra.velocity == 0).all()
    else:
        assert (spectra.frame, spectra.flux_unit) == (None, "W / (m2 nm)")
        assert np.isnan(spectra.velocity).all()


def recognized(path):
    return [product.name for product in GRIDS if product.recognizes(path)]


@PRODUCTS
@pytest.mark.parametrize("brackets", ["()", "[]"])
@pytest.mark.parametrize("packed", [False, True])
def test_csv_with_a_row_a_source(tmp_path, product, brackets, packed):
    path = write_raw_csv(tmp_path / ("s.csv.gz" if packed else "s.csv"), product, brackets=brackets, packed=packed)
    assert recognized(path) == [product.name]
    (spectra,) = product.read(path)
    check(product, spectra)
    np.testing.assert_array_equal(spectra.columns["ra"], [10.5, 20.5, 30.5])
    np.testing.assert_array_equal(spectra.columns["solution_id"], 42)
    assert spectra.units["ra"] == "deg"


@PRODUCTS
@pytest.mark.parametrize("format", ["ascii.ecsv", "fits", "votable"])
def test_other_formats_with_a_row_a_source(tmp_path, product, format):  # noqa: A002
    path = tmp_path / "s.dat"
    raw_table(product).write(path, format=format)
    assert recognized(path) == [product.name]
    (spectra,) = product.read(path)
    check(product, spectra)
    np.testing.assert_array_equal(spectra.columns["ra"], [10.5, 20.5, 30.5])


@PRODUCTS
def test_arrays_of_variable_length(tmp_path, product):
    table = raw_table(product)
    columns = [fits.Column("source_id", "K", array=table["source_id"])]
    columns += [
        fits.Column(name, "PD()", array=np.array([*table[name], None], object)[:3]) for name in ("flux", "flux_error")
    ]
    columns += [fits.Column("combined_ccds", "I", array=[1, 2, 3])] if product is RVS else []
    path = tmp_path / "s.fits"
    fits.BinTableHDU.from_columns(columns).writeto(path)
    assert recognized(path) == [product.name]
    check(product, product.read(path)[0])


def test_the_bulk_download_is_ecsv_with_null(tmp_path):
    """Its comments come before a header line, its delimiter is a comma, and what is missing is null."""
    flux, error = spectra_of(XP_SAMPLED, 2)
    values = [as_text(row, "[]") for row in (*flux, *error)]
    values[0] = values[0].replace(repr(float(flux[0, 5])), "null")
    head = "# %ECSV 1.0\n# ---\n# delimiter: ','\n# datatype:\n# - {name: source_id, datatype: int64}\n"
    head += "source_id,ra,flux,flux_error\n"
    rows = [f'{SOURCES[0]},1.5,"{values[0]}","{values[2]}"', f'{SOURCES[1]},null,"{values[1]}","{values[3]}"']
    path = tmp_path / "XpSampledMeanSpectrum_000000-003111.csv.gz"
    path.write_bytes(gzip.compress((head + "\n".join(rows)).encode()))
    assert recognized(path) == [XP_SAMPLED.name]
    (spectra,) = XP_SAMPLED.read(path)
    flux[0, 5] = np.nan
    np.testing.assert_array_equal(spectra.segments[0].flux, flux)
    np.testing.assert_array_equal(spectra.segments[0].noise, error)
    np.testing.assert_array_equal(spectra.columns["ra"], [1.5, np.nan])


def samples(product, k):
    flux, error = spectra_of(product)
    return Table({"wavelength": Column(GRIDS[product], unit="nm"), "flux": flux[k], "flux_error": error[k]})


@PRODUCTS
@pytest.mark.parametrize("format", ["ascii.csv", "ascii.ecsv", "fits", "votable"])
def test_a_file_a_source_says_the_source_in_its_name(tmp_path, product, format):  # noqa: A002
    path = tmp_path / f"XP_SAMPLED-Gaia DR3 {SOURCES[0]}.dat"
    samples(product, 0).write(path, format=format)
    assert recognized(path) == [product.name]
    (spectra,) = product.read(path)
    check(product, spectra, 1)
    renamed = path.rename(tmp_path / "mine.dat")
    with pytest.raises(ValueError, match=r"mine\.dat: nothing in it says the source: neither a column source_id"):
        product.read(renamed)


@PRODUCTS
@pytest.mark.parametrize("coding", ["tabledata", "binary2"])
def test_votable_with_a_table_a_source(tmp_path, product, coding):
    """COMBINED: the source is a parameter of its table."""
    whole = VOTableFile()
    for k, source in enumerate(SOURCES):
        made = from_table(samples(product, k))
        table = made.get_first_table()
        table.params.append(Param(made, name="source_id", datatype="long", value=str(source)))
        whole.resources.extend(made.resources)
    path = tmp_path / "combined.xml"
    whole.to_xml(str(path), tabledata_format=coding)
    assert recognized(path) == [product.name]
    (spectra,) = product.read(path)
    check(product, spectra)


@PRODUCTS
def test_rows_of_samples_of_several_sources(tmp_path, product):
    tables = [samples(product, k) for k in range(3)]
    path = tmp_path / "combined.csv"
    with open(path, "w") as file:
        file.write("source_id,wavelength,flux,flux_error\n")
        for source, table in zip(SOURCES, tables, strict=True):
            file.writelines(
                f"{source},{w!r},{f!r},{e!r}\n" for w, f, e in table.iterrows() for w, f, e in [map(float, (w, f, e))]
            )
    assert recognized(path) == [product.name]
    (spectra,) = product.read(path)
    check(product, spectra)


def test_sources_of_other_wavelengths_are_records_of_their_own(tmp_path):
    path = tmp_path / "s.csv"
    rows = [f"{s},{w},1.0,0.1" for s, first in ((11, 336), (22, 337), (33, 336)) for w in range(first, first + 9, 2)]
    path.write_text("\n".join(["source_id,wavelength,flux,flux_error", *rows]))
    one, other = XP_SAMPLED.read(path)
    assert [list(one.star_id), list(other.star_id)] == [["11", "33"], ["22"]]
    np.testing.assert_array_equal(other.segments[0].wavelength, np.arange(3370, 3460, 20))
    path.write_text("\n".join(["source_id,wavelength,flux,flux_error", *rows, *rows[:3]]))
    with pytest.raises(ValueError, match=r"s\.csv: the rows of a source do not stand together"):
        XP_SAMPLED.read(path)


def test_missing_samples_are_nan(tmp_path):
    path = tmp_path / f"RVS-Gaia DR3 {SOURCES[0]}.csv"
    path.write_text("wavelength,flux,flux_error\n846.0,,\n846.01,NaN,0.1\n846.02,0.9,0.2\n")
    assert recognized(path) == [RVS.name]
    (spectra,) = RVS.read(path)
    np.testing.assert_array_equal(spectra.segments[0].flux, [[np.nan, np.nan, 0.9]])
    np.testing.assert_array_equal(spectra.segments[0].noise, [[np.nan, 0.1, 0.2]])
    masked = Table({"wavelength": GRIDS[RVS][:3], "flux": MaskedColumn([1.0, 2.0, 3.0], mask=[0, 1, 0])})
    masked["flux_error"] = MaskedColumn([1, 2, 3], dtype="f4", mask=[0, 1, 0])
    path = path.with_suffix(".xml")
    masked.write(path, format="votable")
    (spectra,) = RVS.read(path)
    np.testing.assert_array_equal(spectra.segments[0].flux, [[1, np.nan, 3]])


def test_faulty_files_are_named(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text('source_id,flux,flux_error\n1,"(1.0, 2.0)","(1.0, 1.0)"\n2,"(1.0)","(1.0)"\n')
    with pytest.raises(ValueError, match=r"s\.csv: flux has 1 numbers in row 1 and 2 in another"):
        XP_SAMPLED.read(path)
    path.write_text('source_id,flux,flux_error\n1,"(1.0, x)","(1.0, 1.0)"\n')
    with pytest.raises(ValueError, match=r"s\.csv: flux in row 0 is no list of numbers: \(1\.0, x\)"):
        XP_SAMPLED.read(path)
    path.write_text('source_id,flux,flux_error\n1,"(1.0, 2.0)","(1.0, 1.0)"\n')
    assert recognized(path) == [XP_SAMPLED.name]
    with pytest.raises(
        ValueError, match=r"s\.csv: 2 samples and no wavelengths: gaia-xp-sampled of data release 3 has 343"
    ):
        XP_SAMPLED.read(path)
    path.write_text("source_id,flux\n1,2\n")
    with pytest.raises(ValueError, match=r"s\.csv: there is no column flux_error in source_id, flux"):
        XP_SAMPLED.read(path)
    path.write_text('source_id,flux,flux_error\n1,"(1.0, 2.0)"\n')
    with pytest.raises(ValueError, match=r"s\.csv: row 0 has 2 values for 3 columns"):
        XP_SAMPLED.read(path)
    path = tmp_path / "s.xml"
    path.write_text("<?xml version='1.0'?><VOTABLE><RESOURCE><TABLE><FIELD name='flux'")
    with pytest.raises(ValueError, match=r"s\.xml"):
        XP_SAMPLED.read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x00\xff\xfe binary", b"\x1f\x8b broken", b"# a comment only\n", b"id,flux,flux_error\n1,2.0,0.1\n",
        b"source_id,flux,flux_error\n1,2.0,0.1\n", b"wavelength,flux,flux_error\n5000.0,2.0,0.1\n",
        b"wavelength,flux,flux_error\n", b'wavelength,flux,flux_error\n"33',
    ],
)  # fmt: skip
def test_foreign_files_are_not_recognized(tmp_path, content):
    path = tmp_path / "file.dat"
    path.write_bytes(content)
    assert recognized(path) == []
