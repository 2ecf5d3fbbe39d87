"""What the bits of each survey's pixel masks are called, and which of them make a pixel bad by default.

========================  ==================================================================================
APOGEE_PIXMASK            bits 0 to 7, 12 and 14 are bad by default: not the regions of persistence and of
                          telluric lines, whose pixels are corrected and bear larger errors
SPPIXMASK                 of SDSS, SEGUE and BOSS spectra: what the survey gave no weight, what its sky
                          subtraction left, and fibres that did not work
LAMOST                    all six: in the and-mask a bit says that the pixel was so in every exposure
DESI specmask             all, as the survey's own co-addition does
========================  ==================================================================================

Sources: the bitmask pages of SDSS DR9 (sppixmask) and DR17 (APOGEE_PIXMASK), the data production description of LAMOST,
``desispec.maskbits``. GALAH masks only what its fitted spectra were not
fitted to, which is not bad; Gaia publishes no pixel masks.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MaskBits:
    """Names of the bits of a mask.

    Attributes
    ----------
    name
        What the survey calls the mask.
    bits
        Number of the bit (0 is the lowest) by its name.
    bad
        Names of the bits that make a pixel bad by default.

    """

    name: str
    bits: Mapping[str, int]
    bad: tuple[str, ...]


def _numbered(*names: str, first: int = 0) -> dict[str, int]:
    return {name: first + k for k, name in enumerate(names)}


_APOGEE_BITS = _numbered(
    "BADPIX", "CRPIX", "SATPIX", "UNFIXABLE", "BADDARK", "BADFLAT", "BADERR", "NOSKY", "LITTROW_GHOST", "PERSIST_HIGH",
    "PERSIST_MED", "PERSIST_LOW", "SIG_SKYLINE", "SIG_TELLURIC", "NOT_ENOUGH_PSF",
)  # fmt: skip
APOGEE = MaskBits(
    "APOGEE_PIXMASK", _APOGEE_BITS, tuple(name for name, bit in _APOGEE_BITS.items() if bit in (*range(8), 12, 14))
)
SDSS = MaskBits(
    "SPPIXMASK",
    _numbered(
        "NOPLUG", "BADTRACE", "BADFLAT", "BADARC", "MANYBADCOLUMNS", "MANYREJECTED", "LARGESHIFT", "BADSKYFIBER",
        "NEARWHOPPER", "WHOPPER", "SMEARIMAGE", "SMEARHIGHSN", "SMEARMEDSN",
    )
    | _numbered(
        "NEARBADPIXEL", "LOWFLAT", "FULLREJECT", "PARTIALREJECT", "SCATTEREDLIGHT", "CROSSTALK", "NOSKY", "BRIGHTSKY",
        "NODATA", "COMBINEREJ", "BADFLUXFACTOR", "BADSKYCHI", "REDMONSTER", first=16,
    ),
    (
        "NOPLUG", "BADTRACE", "BADFLAT", "BADARC", "FULLREJECT", "NOSKY", "BRIGHTSKY", "NODATA", "COMBINEREJ",
        "BADFLUXFACTOR", "BADSKYCHI", "REDMONSTER",
    ),
)  # fmt: skip
_LAMOST_BITS = _numbered("BADCCD", "BADPROFILE", "NOSKY", "BRIGHTSKY", "BADCENTER", "NODATA")
LAMOST = MaskBits("LAMOST", _LAMOST_BITS, tuple(_LAMOST_BITS))
_DESI_BITS = _numbered(
    "SOMEBADPIX", "ALLBADPIX", "COSMIC", "LOWFLAT", "BADFIBERFLAT", "BRIGHTSKY", "BADSKY", "BAD2DFIT", "NODATA",
    "BADFIBER", "BADCOLUMN",
)  # fmt: skip
DESI = MaskBits("DESI specmask", _DESI_BITS, tuple(_DESI_BITS))

GALAH_FIT = MaskBits("GALAH fit", {"NOT_FITTED": 0}, ())

MASKS = {mask.name: mask for mask in (APOGEE, SDSS, LAMOST, DESI, GALAH_FIT)}
"""All masks by their name."""

_OF_READER = {
    "apogee-apstar": APOGEE,
    "apogee-apvisit": APOGEE,
    "sdss-mwmstar APOGEE": APOGEE,
    "sdss-mwmvisit APOGEE": APOGEE,
    "sdss-mwmstar BOSS": SDSS,
    "sdss-mwmvisit BOSS": SDSS,
    "sdss-spec": SDSS,
    "lamost-low": LAMOST,
    "lamost-medium": LAMOST,
    "desi-coadd": DESI,
    "galah-fit": GALAH_FIT,
}

ZERO_FLUX_IS_NO_DATA = frozenset(
    ("apogee-apstar", "apogee-aspcapstar", "apogee-apvisit", "sdss-mwmstar", "sdss-mwmvisit", "sdss-spec", "lamost-low",
     "lamost-medium", "galah", "galah-fit", "desi-coadd")
)  # fmt: skip
"""Readers of surveys that write a flux of exactly zero where there is none, not everywhere with a mask bit or a large
error: gaps between chips, ends of arms."""


TOO_COARSE_FOR_VELOCITIES = frozenset(("gaia-xp-sampled", "gaia-xp-continuous"))
"""Readers of spectra whose samples are wider than any star moves, and which come without velocities: they count as at
rest."""


def mask_of(reader: str, segment: str) -> MaskBits | None:
    """The mask of a segment in what a reader read; None where its bits have no names."""
    return _OF_READER.get(reader) or _OF_READER.get(f"{reader} {segment}")
