"""Gaia XP spectra in the continuous representation: coefficients of basis functions, with their covariance.

A spectrum is n coefficients c_b for each of the two photometers b, BP and RP, 55 in data release 3, with errors e_b and
correlations R_b. Flux at given wavelengths is linear in them,

    flux = sum_b w_b D_b c_b,    covariance = sum_b (w_b D_b) E_b R_b E_b (w_b D_b)^T,    E_b = diag(e_b),

where D_b holds the basis functions at the wavelengths, in flux units, and w_b the share of each photometer where both
see (De Angeli et al. 2023; Montegriffo et al. 2023). D and w are those of the package gaiaxpy, which ships them; they
are read once. Where one photometer is missing, the other gives the flux alone, and NaN where it does not see.

What comes out is the 343 samples of the archive's own sampled spectra, 3360 to 10200 Angstrom in steps of 20: no more
than 110 of the samples are independent, which only the covariance says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import numpy as np

from bayes_cannon.io.damage import reading
from bayes_cannon.io.readers.gaia_tables import gaia_spectra, look, read_tables
from bayes_cannon.io.readers.survey_spectra import Segment, SurveySpectra

BANDS = ("bp", "rp")
_ARRAYS = ("coefficients", "coefficient_errors", "coefficient_correlations")
_AT_ONCE = 128
"""Spectra whose matrices are held at a time, 50 MB."""


@dataclass(frozen=True)
class Sampling:
    """The linear map from coefficients to flux.

    Attributes
    ----------
    wavelength
        Angstrom, shape (sample,).
    basis
        By photometer, "bp" and "rp": basis functions, W / (m2 nm) a unit of coefficient, shape (sample, coefficient).
    weight
        By photometer: its share where both are there, shape (sample,).
    sees
        By photometer: where it gives a flux if the other is missing, shape (sample,).

    """

    wavelength: np.ndarray
    basis: Mapping[str, np.ndarray]
    weight: Mapping[str, np.ndarray]
    sees: Mapping[str, np.ndarray]

    def matrix(self, band: str, *, alone: bool) -> np.ndarray:
        """w_b D_b, shape (sample, coefficient); D_b, and NaN where it does not see, if the other is missing."""
        factor = np.where(self.sees[band], 1.0, np.nan) if alone else self.weight[band]
        return factor[:, None] * self.basis[band]


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of S spectra in one photometer.

    Attributes
    ----------
    values, errors
        Shape (spectrum, coefficient), NaN in rows of spectra without this photometer.
    correlations
        Below the diagonal, row by row, as the archive has them, shape (spectrum, coefficient (coefficient - 1) / 2).

    """

    values: np.ndarray
    errors: np.ndarray
    correlations: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """Whether each spectrum has this photometer, shape (spectrum,)."""
        return np.isfinite(self.values).all(axis=1) & np.isfinite(self.errors).all(axis=1)

    def covariance(self, rows: np.ndarray) -> np.ndarray:
        """Of the coefficients of some spectra, shape (row, coefficient, coefficient)."""
        n = self.values.shape[1]
        below = np.zeros((len(rows), n, n))
        below[:, *np.tril_indices(n, -1)] = self.correlations[rows]
        correlation = below + below.transpose(0, 2, 1) + np.eye(n)
        return correlation * self.errors[rows][:, :, None] * self.errors[rows][:, None, :]

    def variance(self, rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Diagonal of matrix covariance matrix^T, of one product of matrices for all rows, shape (row, sample)."""
        i, j = np.tril_indices(self.values.shape[1], -1)
        errors = self.errors[rows]
        below = self.correlations[rows] * errors[:, i] * errors[:, j]
        return errors**2 @ (matrix**2).T + 2 * below @ (matrix[:, i] * matrix[:, j]).T


class _Continuous:
    """Coefficients of XP spectra, sampled while they are read."""

    name = "gaia-xp-continuous"
    description = "Gaia XP spectra as coefficients (CSV, ECSV, FITS, VOTable)"
    needs: str | None = "gaiaxpy"
    extra: str | None = "gaia"
    gives_covariance = True

    def recognizes(self, path: Path) -> bool:
        """Whether the first bytes are those of a table with coefficients of both photometers."""
        return set(look(path).columns) >= {"source_id", *(f"{band}_coefficients" for band in BANDS)}

    def read(self, path: Path, *, covariance: bool = False) -> list[SurveySpectra]:
        """All sources of the file as one record, sampled as the archive samples them.

        Parameters
        ----------
        path
            The file.
        covariance
            Whether to give the covariance of the flux too, 0.94 MB a spectrum.

        Raises
        ------
        ValueError
            If the file is not of this format, or has another number of coefficients than gaiaxpy knows.
        ImportError
            If the package gaiaxpy is not installed, or is of a version that keeps its basis functions elsewhere.

        """
        wanted = f"expected {self.description}"
        tables = read_tables(path, wanted)
        sampling = archive_sampling()
        with reading(path, "spectra", wanted):
            return [self._spectra(table.columns, sampling, covariance=covariance) for table in tables]

    def _spectra(self, table: Mapping[str, np.ndarray], sampling: Sampling, *, covariance: bool) -> SurveySpectra:
        missing = [n for n in ("source_id", *(f"{b}_{a}" for b in BANDS for a in _ARRAYS)) if n not in table]
        if missing:
            raise ValueError(f"there is no column {missing[0]}")
        coefficients = {}
        for band in BANDS:
            n = sampling.basis[band].shape[1]
            sizes = (n, n, n * (n - 1) // 2)
            arrays = (_filled(table[f"{band}_{what}"], size) for what, size in zip(_ARRAYS, sizes, strict=True))
            coefficients[band] = Coefficients(*arrays)
        flux, error, whole = sampled(coefficients, sampling, covariance=covariance)
        used = {"source_id", *(f"{band}_{what}" for band in BANDS for what in _ARRAYS)}
        columns = {name: values for name, values in table.items() if name not in used}
        segment = Segment(sampling.wavelength, flux, error, covariance=whole)
        return gaia_spectra(self.name, segment, table["source_id"], columns, flux_unit="W / (m2 nm)")


XP_CONTINUOUS = _Continuous()


def sampled(
    coefficients: Mapping[str, Coefficients], sampling: Sampling, *, covariance: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Flux at the wavelengths of the sampling, with its errors.

    Parameters
    ----------
    coefficients
        By photometer, "bp" and "rp", of the same S spectra.
    sampling
        The linear map.
    covariance
        Whether to return the covariance of the flux as well; it takes 8 S sample^2 bytes. Otherwise memory beyond input
        and output does not grow with S.

    Returns
    -------
    flux, error
        W / (m2 nm), shape (spectrum, sample); NaN where no photometer that is there sees, and in spectra without any.
    covariance
        Shape (spectrum, sample, sample), or None.

    """
    n_spectra, n_samples = len(coefficients["bp"].values), len(sampling.wavelength)
    flux, variance = np.full((2, n_spectra, n_samples), np.nan)
    whole = np.full((n_spectra, n_samples, n_samples), np.nan) if covariance else None
    there = {band: coefficients[band].present for band in BANDS}
    for bands in (("bp", "rp"), ("bp",), ("rp",)):
        having = np.logical_and.reduce([there[band] == (band in bands) for band in BANDS])
        matrices = {band: sampling.matrix(band, alone=len(bands) == 1) for band in bands}
        for rows in np.array_split(np.flatnonzero(having), max(1, -(-int(having.sum()) // _AT_ONCE))):
            if not rows.size:
                continue
            flux[rows] = sum(coefficients[band].values[rows] @ matrices[band].T for band in bands)
            variance[rows] = sum(coefficients[band].variance(rows, matrices[band]) for band in bands)
            if whole is not None:
                whole[rows] = sum(
                    matrices[band] @ coefficients[band].covariance(rows) @ matrices[band].T for band in bands
                )
    return flux, np.sqrt(variance), whole


@lru_cache(maxsize=1)
def archive_sampling() -> Sampling:
    """The map to the 343 samples of the archive, of data release 3, as gaiaxpy ships it.

    Raises
    ------
    ImportError
        If the package gaiaxpy is not installed, or is of a version that keeps it elsewhere.

    """
    try:
        config, satellite = import_module("gaiaxpy.core.config"), import_module("gaiaxpy.core.satellite")
        grid, weight = config.load_xpmerge_from_xml()
        basis = config.load_xpsampling_from_xml()
        ends = {"bp": satellite.BP_WL.high, "rp": satellite.RP_WL.low}
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"Gaia XP coefficients need the package gaiaxpy: install bayes-cannon[gaia] ({error})"
        ) from error
    grid = np.asarray(grid, dtype=float)
    return Sampling(
        wavelength=10 * grid,
        basis={band: np.asarray(basis[band], dtype=float).T for band in BANDS},
        weight={band: np.asarray(weight[band], dtype=float) for band in BANDS},
        sees={"bp": grid < ends["bp"], "rp": grid > ends["rp"]},
    )


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    """The arrays of a column as floats, all NaN where no spectrum of the file has any."""
    numbers = array.astype(float).reshape(len(array), -1)
    if numbers.shape[1] == size:
        return numbers
    if np.isnan(numbers).all():
        return np.full((len(array), size), np.nan)
    raise ValueError(f"{numbers.shape[1]} numbers a spectrum where gaiaxpy has {size}: is it of another data release?")
