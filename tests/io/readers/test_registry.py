"""Which reader a file gets, and what is said where there is none, several, or one that fails."""

import gzip
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits

from bayes_cannon.io.readers import registry
from bayes_cannon.io.readers.registry import Reader, reader_called, readers, sniff
from bayes_cannon.io.readers.survey_spectra import Segment, SurveySpectra

FILES = {
    "apStar-r6-2M14305591+0858023.fits": "apogee-apstar",
    "apStar-r6-2M03290406+3117075.fits": "apogee-apstar",
    "mystery_spec_wiped.fits": "apogee-apstar",
    "apVisit-2M14305591+0858023-0.fits": "apogee-apvisit",
    "spec-0266-51602-0031.fits": "sdss-spec",
    "spec-3586-55181-0220.fits": "sdss-spec",
}


@pytest.fixture(autouse=True)
def present(monkeypatch):
    """Built-in readers whose modules are there."""
    built_in = {name: place for name, place in registry._BUILT_IN.items() if find_spec(place.partition(":")[0])}
    monkeypatch.setattr(registry, "_BUILT_IN", built_in)
    yield
    readers.cache_clear()


@pytest.fixture
def others(monkeypatch):
    """Readers of another package, by the entry points that it would have."""

    def install(*given):
        distribution = SimpleNamespace(name="others")
        points = [SimpleNamespace(name=name, dist=distribution, load=lambda it=it: it) for name, it in given]
        monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.ENTRY_POINTS else [])
        readers.cache_clear()

    return install


class Lines:
    """A reader of text files with a wavelength, a flux and an error a line."""

    name, description, needs, extra = "lines", "text", None, None

    def recognizes(self, path):
        return path.suffix == ".txt"

    def read(self, path):
        wavelength, flux, error = np.loadtxt(path, unpack=True)
        return [
            SurveySpectra(
                self.name, [Segment(wavelength, flux, error)], {"FILE": [path.name]}, "error", [0], ["combined"]
            )
        ]


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("5000 1 0.1\n5001 2 0.1\n")
    return path


def test_built_in_readers_are_what_a_reader_is():
    for name, reader in readers().items():
        assert isinstance(reader, Reader)
        assert reader.name == name
        assert reader.description
        assert "\n" not in reader.description


@pytest.mark.shared
@pytest.mark.parametrize(("file", "name"), FILES.items())
def test_each_file_has_one_reader(shared, file, name):
    path = shared(f"data/survey_files/{file}")
    assert sniff(path).name == name
    assert [
        found for found, reader in readers().items() if reader.recognizes(path) and found not in registry._GENERAL
    ] == [name]


@pytest.mark.shared
def test_no_reader_fails_while_it_looks(shared):
    folder = shared("data/survey_files/mystery_spec_wiped.fits").parent
    for path in folder.iterdir():
        for reader in readers().values():
            assert reader.recognizes(path) in (True, False)


def test_a_reader_of_another_package(others, text_file):
    others(("lines", Lines()))
    assert sniff(text_file).name == reader_called("lines").name == "lines"
    [spectra] = sniff(text_file).read(text_file)
    assert spectra.star_id.tolist() == ["a.txt"]


def test_other_packages_are_looked_up_once(monkeypatch, others, text_file):
    others(("lines", Lines()))
    assert sniff(text_file).name == "lines"
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    assert sniff(text_file).name == "lines"
    readers.cache_clear()
    with pytest.raises(ValueError, match="no reader recognizes"):
        sniff(text_file)


def test_two_that_match_are_both_named(others, text_file):
    others(("lines", Lines()), ("rows", Lines()))
    with pytest.raises(
        ValueError, match=r"a\.txt is recognized by several readers, lines, rows: say which with survey="
    ):
        sniff(text_file)


def test_a_name_that_is_taken(others):
    others(("sdss-spec", Lines()))
    with pytest.raises(ValueError, match="the entry point 'sdss-spec' of others bears the name of another reader"):
        readers()


def test_an_entry_point_that_is_no_reader(others):
    others(("lines", object()))
    with pytest.raises(ValueError, match="the entry point 'lines' of others is not a reader: it needs name"):
        readers()


def test_a_reader_that_fails_while_it_looks(others, text_file):
    class Fails(Lines):
        def recognizes(self, path):
            raise KeyError("CRVAL1")

    others(("fails", Fails()))
    with pytest.raises(ValueError, match=r"the reader 'fails' failed while it looked at .*a\.txt: 'CRVAL1'"):
        sniff(text_file)


def test_an_extra_that_is_missing(others, text_file):
    class Needs(Lines):
        needs, extra = "a_package_that_is_not_there", "gaia"

    others(("lines", Needs()))
    for call in (lambda: sniff(text_file), lambda: reader_called("lines")):
        with pytest.raises(
            ImportError, match=r"need the package a_package_that_is_not_there: install bayes-cannon\[gaia\]"
        ):
            call()


def test_a_name_that_does_not_exist():
    with pytest.raises(ValueError, match="there is no reader 'apogee'; there are apogee-apstar"):
        reader_called("apogee")


def test_files_that_are_not_there_or_foreign(tmp_path, text_file):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.fits"):
        sniff(tmp_path / "nothing.fits")
    with pytest.raises(FileNotFoundError):
        sniff(tmp_path)
    with pytest.raises(ValueError, match=r"no reader recognizes .*a\.txt; there are readers for apogee-apstar"):
        sniff(text_file)
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "picture.fits")
    with pytest.raises(ValueError, match="no reader recognizes"):
        sniff(tmp_path / "picture.fits")


def _spec(path, loglam):
    columns = [
        fits.Column(name, "E", array=loglam if name == "loglam" else np.ones(2000))
        for name in ("flux", "loglam", "ivar")
    ]
    columns.append(fits.Column("and_mask", "J", array=np.ones(2000)))
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path, overwrite=True)
    return path


@pytest.fixture
def spec(tmp_path):
    return _spec(tmp_path / "spec.fits", 3.6 + 1e-4 * np.arange(2000))


@pytest.mark.parametrize("left", [0, 5, 100, 4000, 8640, 20000, 34000])
def test_a_file_that_ends_too_early_is_told(spec, left):
    """Whatever is missing, be it only the end of the data."""
    whole = spec.read_bytes()
    spec.write_bytes(whole[:left])
    with pytest.raises(
        ValueError, match=r"(?s)cannot read the FITS file from .*spec\.fits: .*was it not wholly copied"
    ):
        sniff(spec)
    if left:
        with pytest.raises(ValueError, match=r"spec\.fits"):
            reader_called("sdss-spec").read(spec)


@pytest.mark.parametrize(
    "damage", [lambda packed: packed[:-2000], lambda packed: packed[:100] + b"\0" * 900 + packed[1000:]]
)
def test_a_damaged_gzip_file_is_told(spec, damage):
    path = spec.with_suffix(".fits.gz")
    packed = gzip.compress(spec.read_bytes())
    path.write_bytes(packed)
    assert sniff(path).name == "sdss-spec"
    path.write_bytes(damage(packed))
    with pytest.raises(ValueError, match=r"cannot read the FITS file from .*spec\.fits\.gz"):
        sniff(path)


def test_a_file_called_fits_that_is_none(tmp_path):
    (tmp_path / "a.fits").write_text("wavelength flux\n")
    with pytest.raises(ValueError, match="it does not begin as a FITS file does"):
        sniff(tmp_path / "a.fits")


def test_a_file_written_anew_is_looked_at_anew(spec, tmp_path):
    assert sniff(spec).name == "sdss-spec"
    fits.PrimaryHDU(np.ones((3, 3))).writeto(spec, overwrite=True)
    with pytest.raises(ValueError, match="no reader recognizes"):
        sniff(spec)


@pytest.mark.parametrize(("pixel", "value", "said"), [(7, np.nan, "pixel 7 is nan"), (7, 3.5, "turn at pixel 6")])
def test_wavelengths_that_are_none(tmp_path, pixel, value, said):
    loglam = 3.6 + 1e-4 * np.arange(2000)
    loglam[pixel] = value
    path = _spec(tmp_path / "spec.fits", loglam)
    with pytest.raises(ValueError, match=rf"spec\.fits: .*{said}"):
        sniff(path).read(path)


def test_what_a_survey_publishes_is_not_a_plain_file(spec):
    """Its table has wavelengths and fluxes, as any other."""
    assert registry.reader_called("table-fits").recognizes(spec)
    assert sniff(spec).name == "sdss-spec"
