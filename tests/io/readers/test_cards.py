"""Headers and images read without Astropy are what Astropy reads."""

import gzip

import numpy as np
import pytest
from astropy.io import fits

from bayes_cannon.io.readers.cards import Cards, plain_headers, plain_image
from bayes_cannon.io.readers.fits_file import images, layout, opened

_COMMENTARY = ("COMMENT", "HISTORY", "")


def same(content, headers, path):
    """Whether all HDUs have the same values of the same types."""
    with fits.open(path) as hdus:
        assert len(hdus) == len(headers)
        for hdu, header in zip(hdus, headers, strict=True):
            assert set(header) == set(hdu.header)
            for keyword in set(header) - set(_COMMENTARY):
                value, wanted = header[keyword], hdu.header[keyword]
                assert type(value) is type(wanted), keyword
                assert value == wanted or isinstance(wanted, fits.card.Undefined), keyword


def content_of(path):
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


@pytest.mark.shared
def test_files_as_surveys_publish_them(shared):
    folder = shared("data/survey_files/mystery_spec_wiped.fits").parent
    paths = [path for path in folder.iterdir() if ".fits" in path.name]
    assert len(paths) >= 10
    for path in paths:
        content = content_of(path)
        headers = plain_headers(content)
        assert headers is not None
        same(content, headers, path)
        assert [header.get("EXTNAME", "").strip().upper() for header in headers] == list(layout(path).names)


CARDS = [
    "INT     =                  007 / leading zeros",
    "NEG     = -3",
    "REAL    =              1.5D-03 / double",
    "POINT   = .5/no blank",
    "EXPONENT= 1E5",
    "LOWER   = 1.5e3",
    "STEP    =                6E-06 / as Astropy writes it",
    "YES     =                    T / true",
    "NO      = F",
    "QUOTED  = 'O''Neill / no comment' / a comment",
    "BLANKS  = '   a  '",
    "EMPTY   = ''",
    "BLANKED = '        '",
    "UNDEF   =                      / nothing",
    "COMPLEX = (1.0, 2.0)",
    "COLON   = 'a colon: 3.0'",
    "TWICE   = 1",
    "TWICE   = 2",
    "COMMENT = 'not a value'",
]


def _with_cards(cards):
    standard = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0"]
    content = "".join(card.ljust(80) for card in [*standard, *cards, "END"])
    return content.ljust(-(-len(content) // 2880) * 2880).encode()


def test_values_of_all_kinds(tmp_path):
    content = _with_cards(CARDS)
    (tmp_path / "a.fits").write_bytes(content)
    (header,) = plain_headers(content)
    same(content, [header], tmp_path / "a.fits")
    assert isinstance(header, Cards)
    assert (header["INT"], header["TWICE"], header["REAL"], header["QUOTED"]) == (7, 1, 0.0015, "O'Neill / no comment")
    assert "ABSENT" not in header
    with pytest.raises(KeyError):
        header["ABSENT"]


@pytest.mark.parametrize(("keyword", "value"), [("LONG", "word " * 40 + "end"), ("HIERARCH a long keyword", 3.5)])
def test_keywords_and_texts_over_several_cards(tmp_path, keyword, value):
    primary = fits.PrimaryHDU()
    primary.header[keyword] = value
    primary.writeto(tmp_path / "a.fits")
    content = content_of(tmp_path / "a.fits")
    (header,) = plain_headers(content)
    same(content, [header], tmp_path / "a.fits")
    assert header[keyword.removeprefix("HIERARCH ").upper()] == value


def test_tables_with_a_heap_and_padding(tmp_path):
    arrays = np.array([np.arange(3.0), np.arange(1000.0)], dtype=object)
    columns = [fits.Column("A", "PD()", array=arrays), fits.Column("B", "5A", array=["a", "b"])]
    hdus = [fits.PrimaryHDU(np.ones((3, 5), np.int16)), fits.BinTableHDU.from_columns(columns, name="heap")]
    fits.HDUList([*hdus, fits.ImageHDU(), fits.ImageHDU(np.ones(720, np.float32), name="x")]).writeto(
        tmp_path / "a.fits"
    )
    content = content_of(tmp_path / "a.fits")
    headers = plain_headers(content)
    assert headers[1]["PCOUNT"] == 8 * 1003
    same(content, headers, tmp_path / "a.fits")
    found = layout(tmp_path / "a.fits")
    assert found.names == ("", "HEAP", "", "X")
    assert found.columns(1) == ("A", "B")
    with opened(tmp_path / "a.fits", "expected") as opened_hdus:
        np.testing.assert_array_equal(opened_hdus[3].data, np.ones(720))


@pytest.mark.parametrize("kind", ["u1", "i2", "i4", "i8", "f4", "f8"])
def test_images_that_are_plain(tmp_path, kind):
    pixels = np.arange(24).reshape(2, 3, 4).astype(kind)
    hdus = [fits.PrimaryHDU(pixels[0, 0]), fits.ImageHDU(pixels), fits.ImageHDU(pixels[0] * 3)]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    content = content_of(tmp_path / "a.fits")
    with fits.open(tmp_path / "a.fits") as wanted, images(tmp_path / "a.fits", "expected") as image:
        for hdu, header in enumerate(plain_headers(content)):
            for found in (plain_image(content, header), image(hdu)):
                assert found.dtype == wanted[hdu].data.dtype
                np.testing.assert_array_equal(found, wanted[hdu].data)


def test_images_that_are_left_to_astropy(tmp_path):
    """Scaled ones, as those of unsigned numbers, those with blank pixels, and HDUs that are none."""
    unsigned, scaled = fits.ImageHDU(np.arange(6, dtype=np.uint16)), fits.ImageHDU(np.arange(6.0))
    scaled.scale("int16", bscale=0.5, bzero=1)
    blank = fits.ImageHDU(np.arange(6, dtype=np.int16))
    blank.header["BLANK"] = 2
    table = fits.BinTableHDU.from_columns([fits.Column("A", "E", array=np.ones(3))])
    fits.HDUList([fits.PrimaryHDU(), unsigned, scaled, blank, table]).writeto(tmp_path / "a.fits")
    content = content_of(tmp_path / "a.fits")
    assert all(plain_image(content, header) is None for header in plain_headers(content))
    with images(tmp_path / "a.fits", "expected") as image:
        assert image(0) is None
        assert image(1).tolist() == [0, 1, 2, 3, 4, 5]
        np.testing.assert_array_equal(image(3), [0, 1, np.nan, 3, 4, 5])
        np.testing.assert_allclose(image(2), np.arange(6), atol=0.25)
    with (
        pytest.raises(ValueError, match=r"cannot read spectra from .*a\.fits: .*; expected"),
        images(tmp_path / "a.fits", "expected") as image,
    ):
        image(7)


def test_what_is_left_to_astropy(tmp_path):
    rows = np.ones(4, dtype=[("P", "f4")])
    groups = fits.GroupsHDU(fits.GroupData(np.ones((4, 1, 2, 3)), parnames=["P"], pardata=[rows["P"]], bitpix=-32))
    groups.writeto(tmp_path / "groups.fits")
    image = np.ones((40, 50), np.int16)
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image)]).writeto(tmp_path / "packed.fits")
    for name in ("groups", "packed"):
        assert plain_headers(content_of(tmp_path / f"{name}.fits")) is None
    assert layout(tmp_path / "packed.fits").headers[1]["NAXIS2"] == 40
    whole = _with_cards([])
    fits.HDUList([fits.PrimaryHDU(image)]).writeto(tmp_path / "image.fits")
    padded = content_of(tmp_path / "image.fits")
    broken = [b"", whole[:2000], whole + b"x" * 2880, whole.replace(b"END", b"EMD"), padded[:-1], padded[:2880]]
    broken += [padded.replace(b"NAXIS2  =                   40", b"NAXIS2  =                  -40")]
    for content in broken:
        assert plain_headers(content) is None
