"""Readers of survey files by name, and which of them reads a given file.

Other packages add readers by the entry-point group ``bayes_cannon.readers``: the name of the entry point is that of the
reader, its object a `Reader`. They are looked up once in a process; ``readers.cache_clear()`` has that done again, for
tests of readers or where a package was installed meanwhile. Built-in readers are imported when they are asked.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from bayes_cannon.io.readers.fits_file import layout
from bayes_cannon.io.readers.survey_spectra import SurveySpectra

ENTRY_POINTS = "bayes_cannon.readers"

_BUILT_IN = {
    "apogee-apstar": "bayes_cannon.io.readers.apogee:APSTAR",
    "apogee-aspcapstar": "bayes_cannon.io.readers.apogee:ASPCAPSTAR",
    "apogee-apvisit": "bayes_cannon.io.readers.apogee:APVISIT",
    "sdss-mwmstar": "bayes_cannon.io.readers.mwm:MWMSTAR",
    "sdss-mwmvisit": "bayes_cannon.io.readers.mwm:MWMVISIT",
    "sdss-spec": "bayes_cannon.io.readers.sdss_spec:SPEC",
    "lamost-low": "bayes_cannon.io.readers.lamost:LOW",
    "lamost-medium": "bayes_cannon.io.readers.lamost:MEDIUM",
    "galah": "bayes_cannon.io.readers.galah:CCD",
    "galah-fit": "bayes_cannon.io.readers.galah:FIT",
    "desi-coadd": "bayes_cannon.io.readers.desi:COADD",
    "gaia-xp-sampled": "bayes_cannon.io.readers.gaia:XP_SAMPLED",
    "gaia-xp-continuous": "bayes_cannon.io.readers.gaia_continuous:XP_CONTINUOUS",
    "gaia-rvs": "bayes_cannon.io.readers.gaia:RVS",
    "wcs1d-fits": "bayes_cannon.io.readers.plain_fits:WCS1D",
    "table-fits": "bayes_cannon.io.readers.plain_fits:TABLE",
}

_GENERAL = ("wcs1d-fits", "table-fits")
"""Asked only where none of the others recognizes a file, because the files of surveys are images and tables too."""


@runtime_checkable
class Reader(Protocol):
    """Reads one format.

    A reader whose files hold but one of the detectors of a star has beside this a function ``group(path)``. From the
    name alone it gives what the files of one observation have in common, which can be compared, or None. One whose
    ``gives_covariance`` is True takes ``covariance=True`` in ``read`` for `Segment.covariance`, which is large.

    Attributes
    ----------
    name
        What ``survey=`` and ``--survey`` call it.
    description
        One line about the format, for ``bayes-cannon info``.
    needs
        Module that must be installed to read it beside what the package always needs, or None.
    extra
        The extra of bayes-cannon that brings it, or None.

    """

    name: str
    description: str
    needs: str | None
    extra: str | None

    def recognizes(self, path: Path) -> bool:
        """Whether the file is of this format, told by a look at its content. It must not raise for foreign files."""

    def read(self, path: Path) -> list[SurveySpectra]:
        """All spectra of the file, combined ones and visits; one record for those that share their pixels."""


@cache
def readers() -> Mapping[str, Reader]:
    """All readers by name, those of other packages too.

    Raises
    ------
    ValueError
        If two bear one name, or what an entry point names is no reader.

    """
    found = {name: _load(place) for name, place in _BUILT_IN.items()}
    for point in entry_points(group=ENTRY_POINTS):
        where = f"the entry point {point.name!r} of {point.dist.name if point.dist else 'another package'}"
        if point.name in found:
            raise ValueError(f"{where} bears the name of another reader: uninstall one of the two")
        reader = point.load()
        if not isinstance(reader, Reader):
            raise ValueError(f"{where} is not a reader: it needs name, description, needs, extra, recognizes and read")
        found[point.name] = reader
    return MappingProxyType(found)


def reader_called(name: str) -> Reader:
    """The reader of that name.

    Raises
    ------
    ValueError
        If there is none, listing those that there are.
    ImportError
        If it needs a package that is not installed.

    """
    known = readers()
    if name not in known:
        raise ValueError(f"there is no reader {name!r}; there are {', '.join(known)}")
    return _installed(known[name])


def sniff(path: Path) -> Reader:
    """The one reader that recognizes a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the format is known but needs a package that is not installed.
    ValueError
        If no reader recognizes it, or several do; all of them are named. What a reader raises while it looks is raised
        on, with its name.

    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    layout(path)  # A damaged FITS file is told as that, before any reader looks.
    known = readers()
    special = {name: reader for name, reader in known.items() if name not in _GENERAL}
    matching = _matching(special, path) or _matching({name: known[name] for name in _GENERAL if name in known}, path)
    if len(matching) == 1:
        return _installed(known[matching[0]])
    if matching:
        raise ValueError(f"{path} is recognized by several readers, {', '.join(matching)}: say which with survey=")
    raise ValueError(f"no reader recognizes {path}; there are readers for {', '.join(known)}")


def _matching(asked: dict[str, Reader], path: Path) -> list[str]:
    matching = []
    for name, reader in asked.items():
        try:
            if reader.recognizes(path):
                matching.append(name)
        except Exception as error:
            raise ValueError(f"the reader {name!r} failed while it looked at {path}: {error}") from error
    return matching


def _load(place: str) -> Reader:
    module, attribute = place.split(":")
    reader: Reader = getattr(import_module(module), attribute)
    return reader


def _installed(reader: Reader) -> Reader:
    if reader.needs is not None and find_spec(reader.needs) is None:
        remedy = f"bayes-cannon[{reader.extra}]" if reader.extra else reader.needs
        raise ImportError(f"files of the format {reader.name} need the package {reader.needs}: install {remedy}")
    return reader
