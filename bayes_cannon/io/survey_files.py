"""From a survey's file to spectra on one grid: which reader, which of its spectra, decoded, put on the grid.

Objects that look like the ``Spectrum`` of specutils go the same way, without a file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from bayes_cannon.core.arguments import file_path
from bayes_cannon.core.grids import Grid, pixel_bounds
from bayes_cannon.core.resampling import rising
from bayes_cannon.io.alike import First, check_alike, same_pixels
from bayes_cannon.io.decoding import decode
from bayes_cannon.io.file_lists import Paths, list_files
from bayes_cannon.io.gridding import find_grid, on_grid
from bayes_cannon.io.readers.joined import join_segments
from bayes_cannon.io.readers.registry import Reader, reader_called, readers, sniff
from bayes_cannon.io.readers.spectrum_object import are_objects, survey_spectra_of
from bayes_cannon.io.readers.survey_spectra import DecodedSpectra, Medium, SurveySpectra
from bayes_cannon.io.rows import joined
from bayes_cannon.io.spectra import OWN_SUFFIXES, Spectra, read_spectra_file

Combined = Literal["combined", "combined 2", "visits", "all"]
MaskBits = Sequence[str] | Mapping[str, Sequence[str]] | Literal["default"]


@dataclass(frozen=True)
class FileSettings:
    """How a file becomes spectra.

    Attributes
    ----------
    survey
        Name of the reader of all files, or None: each file is looked at.
    grid
        Pixels of the result, or None: those of the file.
    velocity
        ``"header"``, ``"none"``, or the name of a column of the file, km/s.
    mask_bits
        As for `bayes_cannon.io.decoding.decode`.
    combined
        Which spectra of a file are taken.
    covariance
        Whether ``noise_correlation`` is worked out.
    velocities
        Velocity by the name of the star, km/s, in place of all these.

    """

    survey: str | None = None
    grid: Grid | None = None
    velocity: str = "header"
    mask_bits: MaskBits = "default"
    combined: Combined = "combined"
    covariance: bool = False
    velocities: Mapping[str, float] | None = None

    @property
    def keywords(self) -> dict[str, Any]:
        """Of `read_spectra`."""
        names = ("survey", "grid", "velocity", "mask_bits", "combined", "covariance")
        return {name: getattr(self, name) for name in names}

    def __post_init__(self) -> None:
        if self.combined not in get_args(Combined):
            known = ", ".join(map(repr, get_args(Combined)))
            raise ValueError(f"combined must be one of {known}, got {self.combined!r}")
        if self.survey is not None:
            reader_called(self.survey)


def read_spectra(
    paths: Paths | Any,
    *,
    survey: str | None = None,
    grid: str | tuple | np.ndarray | Grid | None = None,
    velocity: str = "header",
    mask_bits: MaskBits = "default",
    combined: Combined = "combined",
    covariance: bool = False,
) -> Spectra:
    """Read spectra into memory: files of this package, files as surveys publish them, or objects of other packages.

    A survey's file is recognized by its content, decoded (mask bits and errors become ivar), brought to rest, and put
    on one grid. All spectra are rows of their own: two of one star are two rows. ``identifiers`` say for each row the
    survey's names, the ``reader``, the ``file``, and ``which`` of its spectra it is. With a ``grid``, files that hold
    the detectors of one observation, as those of GALAH, are one row, in the place of the first of them.

    Parameters
    ----------
    paths
        A file or several, a folder, ``@LIST`` for a text file with one path a line, or a pattern; see
        `bayes_cannon.io.file_lists.list_files`. Files that end in ``.nc``, ``.h5``, ``.hdf5``, ``.zarr`` or ``.npz``
        are the package's own, see `bayes_cannon.io.spectra.read_spectra_file`, unless ``survey`` is given.
    survey
        Name of a reader, such as ``"apogee-apstar"``; by default each file is looked at.
    grid
        Wavelengths of the result, as `bayes_cannon.io.gridding.find_grid` takes them: a name, ``(first, last, step)``,
        ``(first, last, step, "log")``, the wavelengths themselves, Angstrom, or the path of a model. By default those
        of the files, where all share them.
    velocity
        Which radial velocity takes the spectra to rest: that of the file's ``"header"``, ``"none"``, or the name of a
        numeric column of the file, km/s.
    mask_bits
        Names of the bits of the file's mask that make ivar zero; by default those of the survey's table.
    combined
        Which spectra of a file that holds several: ``"combined"``, the second kind of combination ``"combined 2"``,
        ``"visits"`` or ``"all"``.
    covariance
        Whether to work out ``noise_correlation`` of a survey's files: by what they say of the covariance of their flux,
        as Gaia's coefficients of XP spectra do, and by resampling (`bayes_cannon.io.gridding.on_grid`). It takes
        8 pixel^2 bytes.

    Returns
    -------
    spectra
        On one grid. ``labels`` are the numeric columns of the files, NaN where a file lacks one. ``noise_correlation``
        is the mean over the spectra that bring one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If a format needs a package that is not installed.
    ValueError
        For a file that no reader or several recognize, that is damaged, or holds no spectrum of that kind; if the files
        do not share their wavelengths and no ``grid`` is given; if they are of two surveys and no ``grid`` is given.

    Examples
    --------
    >>> np.savez("spectra.npz", flux=np.ones((3, 4)), ivar=np.full((3, 4), 1e4), TEFF=np.array([4500, 5000, 5500]))
    >>> spectra = tc.io.read_spectra("spectra.npz")
    >>> spectra.n_stars, spectra.n_pixels, list(spectra.labels)
    (3, 4, ['TEFF'])

    """
    given = None if grid is None else find_grid(grid)
    settings = FileSettings(survey, given, velocity, mask_bits, combined, covariance)
    parts, first = list[Spectra](), None
    for name, spectra in _spectra_of_objects(paths, settings) if are_objects(paths) else _of_all_files(paths, settings):
        parts.append(spectra)
        first = first or First.of(spectra, name)
        if given is None:
            check_alike(spectra, name, first)
    return parts[0] if len(parts) == 1 else joined(parts)


def open_spectra(source: Any, *, survey: str | None = None) -> list[SurveySpectra]:
    """Open one file of a survey, or objects of another package, of which nothing is decoded yet.

    `bayes_cannon.io.decode` makes flux and ivar of what comes out, and `bayes_cannon.io.on_grid` puts them on a grid.

    Parameters
    ----------
    source
        Path of a file as a survey publishes it; or objects, as `bayes_cannon.io.survey_spectra_of` takes them.
    survey
        Name of the reader of the file; by default it is looked at.

    Returns
    -------
    records
        One for those spectra of the file that share their pixels, or one for each object.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the format needs a package that is not installed.
    ValueError
        For a file that no reader or several recognize, or that is damaged; as `bayes_cannon.io.survey_spectra_of`.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from astropy import units as u
    >>> from astropy.nddata import StdDevUncertainty
    >>> wavelength, error = [5000.0, 5001.0, 5002.0] * u.AA, StdDevUncertainty([0.5, 0.5, 0.5])
    >>> spectrum = SimpleNamespace(flux=[1.0, 3.0, 5.0] * u.one, spectral_axis=wavelength, uncertainty=error)
    >>> [record] = tc.io.open_spectra(spectrum)
    >>> decoded = tc.io.decode(record, velocity="none")
    >>> tc.io.on_grid(decoded, tc.io.find_grid((5000.5, 5001.5, 1))).flux
    array([[2., 4.]])

    """
    if are_objects(source):
        return _records_of_objects(source, survey)
    path = file_path(source)
    reader = _reader_of(path, FileSettings(survey))
    with _naming(path):
        return reader.read(path)


def _records_of_objects(objects: Any, survey: str | None) -> list[SurveySpectra]:
    if survey is not None:
        raise ValueError(f"survey is {survey!r}: it is the format of files, and objects have none; leave it out")
    return survey_spectra_of(objects)


def _spectra_of_objects(objects: Any, settings: FileSettings) -> Iterator[tuple[str, Spectra]]:
    """Name and spectra of each."""
    for k, record in enumerate(_records_of_objects(objects, settings.survey)):
        name = f"object {k}"
        with _naming(name):
            [chosen] = _chosen([record], settings.combined)
            spectra = _one(chosen, settings)
        yield name, spectra


def _of_all_files(paths: Paths, settings: FileSettings) -> Iterator[tuple[Path, Spectra]]:
    """The first file of each group, and its spectra."""
    for group in grouped(list_files(paths), settings):
        yield group[0], spectra_of_files(group, settings)


def grouped(files: Sequence[Path], settings: FileSettings) -> list[tuple[Path, ...]]:
    """Files that become rows together, by their names, each group in the place of its first file.

    Without a grid each file is read by itself: detectors do not share their pixels.
    """
    if settings.grid is None:
        return [(path,) for path in files]
    asked = readers() if settings.survey is None else {settings.survey: reader_called(settings.survey)}
    rules = [(name, reader.group) for name, reader in asked.items() if hasattr(reader, "group")]
    groups = dict[Any, list[Path]]()
    for path in files:
        keys = ((name, key) for name, rule in rules if (key := rule(path)) is not None)
        groups.setdefault(next(keys, path), []).append(path)
    return [tuple(group) for group in groups.values()]


def spectra_of_files(paths: Sequence[Path], settings: FileSettings) -> Spectra:
    """Spectra of files that `grouped` put together: detectors of one spectrum are one row.

    Files that only their names put together, of several formats, are rows of their own.
    """
    if len(paths) == 1:
        return spectra_of_file(paths[0], settings)
    reader, *others = (_reader_of(path, settings) for path in paths)
    if not hasattr(reader, "group") or any(other is not reader for other in others):
        return joined([spectra_of_file(path, settings) for path in paths])
    records = [record for path in paths for record in _records(path, settings, reader)]
    with _naming(paths[0]):
        names = ", ".join(path.name for path in paths)
        parts = [_one(record, settings, names) for record in join_segments(records)]
        return parts[0] if len(parts) == 1 else joined(parts)


def spectra_of_file(path: Path, settings: FileSettings) -> Spectra:
    """Spectra of one file; errors as for `read_spectra`, all of which name the file."""
    if settings.survey is None and has_own_format(path):
        spectra = read_spectra_file(path)
        if settings.grid is not None and not same_pixels(spectra.wavelength, settings.grid.wavelength):
            raise ValueError(
                f"{path} is on other wavelengths than the grid, and a file of this package is not resampled"
            )
        return spectra
    reader = _reader_of(path, settings)
    with _naming(path):
        parts = [_one(record, settings, path.name) for record in _records(path, settings, reader)]
        return parts[0] if len(parts) == 1 else joined(parts)


def _records(path: Path, settings: FileSettings, reader: Reader) -> list[SurveySpectra]:
    with _naming(path):
        more = {"covariance": True} if settings.covariance and getattr(reader, "gives_covariance", False) else {}
        return _chosen(reader.read(path, **more), settings.combined)


@contextmanager
def _naming(name: Path | str) -> Iterator[None]:
    """Errors name the file, or the object."""
    try:
        yield
    except ValueError as error:
        raise error if str(name) in str(error) else ValueError(f"{name}: {error}") from error


def has_own_format(path: Path) -> bool:
    """Whether a file is one of this package's formats, by its suffix."""
    return path.suffix.lower() in OWN_SUFFIXES


def _reader_of(path: Path, settings: FileSettings) -> Reader:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return sniff(path) if settings.survey is None else reader_called(settings.survey)


def _one(record: SurveySpectra, settings: FileSettings, file: str | None = None) -> Spectra:
    """A record on the grid, with what tells one row from another."""
    decoded = decode(record, mask_bits=settings.mask_bits, velocity=_velocity(record, settings))
    spectra = on_grid(decoded, settings.grid or _own_grid(decoded), covariance=settings.covariance)
    names = {**record.identifiers, **spectra.identifiers}
    if file is not None:
        names.setdefault("FILE", np.full(spectra.n_stars, file))
    identifiers = {**names, "reader": np.full(spectra.n_stars, record.reader), "which": record.which}
    return replace(spectra, identifiers=identifiers, attrs={**spectra.attrs, "survey": record.reader})


def _velocity(record: SurveySpectra, settings: FileSettings) -> Any:
    """What `decode` takes."""
    if settings.velocities is not None:
        known = settings.velocities
        velocity = np.array([known.get(str(star), np.nan) for star in record.star_id])
        if not np.isfinite(velocity).all():
            star = record.star_id[np.argmin(np.isfinite(velocity))]
            raise ValueError(f"the table has no velocity of the star {str(star)!r}")
        return velocity
    if settings.velocity in ("header", "none"):
        return settings.velocity
    if settings.velocity not in record.columns:
        known_columns = ", ".join(record.columns) or "none"
        raise ValueError(f"it has no column {settings.velocity!r} to take the velocity from; it has {known_columns}")
    return np.asarray(record.columns[settings.velocity], dtype=float)


def _chosen(records: Sequence[SurveySpectra], combined: Combined) -> list[SurveySpectra]:
    """The records with the spectra of this kind alone."""
    found = []
    for record in records:
        which = record.which
        rows = np.full(len(which), True)
        if combined != "all":
            rows = np.char.startswith(which, "visit") if combined == "visits" else which == combined
        if rows.all():
            found.append(record)
        elif rows.any():
            found.append(_at(record, np.flatnonzero(rows)))
    if not found:
        kinds = dict.fromkeys(str(one) for record in records for one in record.which)
        raise ValueError(f"it holds no spectrum of combined={combined!r}, but {', '.join(kinds) or 'none at all'}")
    return found


def _at(record: SurveySpectra, rows: np.ndarray) -> SurveySpectra:
    """Some of the spectra of a record."""

    def some(values: Any) -> Any:
        return None if values is None else np.asarray(values)[rows]

    segments = [
        replace(one, flux=some(one.flux), noise=some(one.noise), mask=some(one.mask), covariance=some(one.covariance))
        for one in record.segments
    ]
    return replace(
        record,
        segments=segments,
        identifiers={name: some(values) for name, values in record.identifiers.items()},
        columns={name: some(values) for name, values in record.columns.items()},
        velocity=some(record.velocity),
        which=some(record.which),
    )


def _own_grid(decoded: DecodedSpectra) -> Grid:
    """The pixels of the file, if its spectra are at rest on them."""
    if len(decoded.segments) > 1:
        names = ", ".join(repr(one.name) for one in decoded.segments)
        raise ValueError(f"it has several arms ({names}), each with its own pixels: say with grid= where they shall go")
    unknown = np.flatnonzero(np.isnan(decoded.doppler))
    if unknown.size:
        raise ValueError(
            f"it does not say the velocity of spectrum {unknown[0]}, without which it is not at rest: give it, or "
            'leave the wavelengths as they are with velocity="none"'
        )
    moving = np.flatnonzero(decoded.doppler != 1)
    if moving.size:
        raise ValueError(
            f"its wavelengths are not at rest (spectrum {moving[0]} by a factor {decoded.doppler[moving[0]]:.8f}), so "
            'that the spectra share no pixels: say with grid= where they shall go, or leave them with velocity="none"'
        )
    arm = decoded.segments[0]
    return _grid_at(rising(arm.wavelength)[0].tobytes(), arm.log_linear, decoded.medium)


@lru_cache(maxsize=4)
def _grid_at(wavelengths: bytes, log_linear: bool, medium: Medium | None) -> Grid:
    """The same for all files with these pixels, so that what overlaps with it is worked out once."""
    wavelength = np.frombuffer(wavelengths)
    lower, upper = pixel_bounds(wavelength, log_linear=log_linear)
    return Grid(wavelength, np.append(lower, upper[-1]), medium=medium, upper=upper)
