"""What is done to spectra before a model sees them; kept with the model, so that new spectra go the same way."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from bayes_cannon.core.continuum import normalize
from bayes_cannon.core.running_continuum import normalize_by_mean
from bayes_cannon.io.damage import UNREADABLE
from bayes_cannon.io.spectra import Spectra

if TYPE_CHECKING:  # What reads survey files must not load JAX.
    from bayes_cannon.io.recipe import ContinuumSection, Recipe

PREPARED = "preparation"
"""Attribute of spectra that were written after their preparation: that, as `Preparation.to_text` gives it."""
FLUX_KIND, OVER_MEDIAN = "flux_kind", "flux / median flux"
"""Attribute of spectra that says what their flux is, and its value where it was divided by its median."""
Noise = Literal["quoted", "constant"]
NOISES: tuple[str, ...] = get_args(Noise)
ENOUGH = 0.9
"""Share of the pixels that must be known for a median."""


@dataclass(frozen=True)
class Preparation:
    """Steps in this order: division by the continuum or the median, choice of pixels, logarithm of the flux, noise.

    Attributes
    ----------
    continuum
        Keywords of `bayes_cannon.continuum.normalize` and the continuum pixels: ``pixels``, indices of the pixels
        before any choice, or ``every``, the n of every n-th pixel. Or ``running_mean``, the L of
        `bayes_cannon.continuum.normalize_by_mean`. None is no division.
    wavelength_range
        First and last wavelength kept, both included; None keeps all.
    log_flux
        Whether flux y becomes ``ln y`` with ``ivar y^2``; where y is not positive ivar becomes zero.
    noise
        ``"quoted"``, or ``"constant"`` for `constant_noise`.
    divide_by_median
        Whether flux is divided by its median m over all pixels before any choice, ``y / m`` with ``ivar m^2``: the
        brightness of the star no longer counts. Spectra that say that it was done stay as they are. A star whose median
        is not positive, or of which less than `ENOUGH` of the pixels are known, has ivar zero.

    """

    continuum: Mapping[str, Any] | None = None
    wavelength_range: tuple[float, float] | None = None
    log_flux: bool = False
    divide_by_median: bool = False
    noise: Noise = "quoted"

    @classmethod
    def of_recipe(cls, recipe: "Recipe") -> "Preparation":
        """The steps that a recipe asks for; the file of its continuum pixels is read here."""
        section = recipe.continuum
        continuum = None if section is None else _continuum(section, recipe)
        data = recipe.data
        return cls(continuum, data.wavelength_range, data.log_flux, data.divide_by_median, data.noise)

    @classmethod
    def from_text(cls, text: str) -> "Preparation":
        """What `to_text` wrote."""
        given = json.loads(text)
        pair = given.pop("wavelength_range")
        return cls(wavelength_range=None if pair is None else (pair[0], pair[1]), **given)

    def to_text(self) -> str:
        """The steps as JSON."""
        return json.dumps(asdict(self))

    def after(self, spectra: Spectra) -> "Preparation":
        """That of spectra which were prepared before they were written, where this one does nothing; else this one."""
        before = spectra.attrs.get(PREPARED)
        return self if before is None or self != Preparation() else Preparation.from_text(str(before))

    def apply(self, spectra: Spectra) -> Spectra:
        """Prepared spectra; the same ones if they were prepared so before they were written.

        Raises
        ------
        ValueError
            If they were written after another preparation, a step needs wavelengths and the spectra have none, no pixel
            lies in the range, or as `bayes_cannon.continuum.normalize` does.

        """
        before = spectra.attrs.get(PREPARED)
        if before is not None and Preparation.from_text(str(before)) != Preparation.from_text(self.to_text()):
            raise ValueError(
                f"the spectra were prepared before they were written, by {before}, and not by {self.to_text()}"
            )
        if before is not None:
            return spectra
        if self.continuum is not None:
            spectra = _normalized(spectra, self.continuum)
        if self.divide_by_median:
            spectra = _by_median(spectra)
        if self.wavelength_range is not None:
            spectra = _chosen(spectra, self.wavelength_range)
        if self.log_flux:
            spectra = _logarithm(spectra)
        return constant_noise(spectra) if self.noise == "constant" else spectra


def constant_noise(spectra: Spectra) -> Spectra:
    r"""Spectra with one noise along each; by how much pixels exceed it is left to the scatter s^2 that is learned.

    .. math:: ivar_{np} \to \mathrm{median}_{p'} \, ivar_{np'} \quad (ivar_{np} > 0)

    with the median over the pixels of star n whose ivar is positive; where ivar is zero it stays so. It is for surveys
    whose errors are right for a spectrum as a whole but not for single pixels: then pixels whose errors are quoted too
    small rule the fit. A noisier spectrum keeps its larger errors of labels and its S/N. What is lost is that a pixel
    is bad in one spectrum alone, if its ivar is not zero: it counts like the others, which shows in chi^2 (a star that
    fits much worse than the training stars is called so), and in larger errors only if the scatter has heavy tails.
    Where the noise is below the median s^2 becomes zero, and the noise of that pixel is overstated.

    Each spectrum is treated by itself, so that new ones are treated as those of the training. `CannonModel` takes
    training and new spectra as they are: treat both. A model of a recipe with ``noise = "constant"`` does it itself.

    Examples
    --------
    >>> spectra = tc.io.Spectra(np.ones((2, 3)), [[1.0, 4.0, 9.0], [0.0, 16.0, 16.0]])
    >>> tc.io.constant_noise(spectra).ivar
    array([[ 4.,  4.,  4.],
           [ 0., 16., 16.]])

    """
    known = np.asarray(spectra.ivar) > 0
    usual = [np.median(row[used]) if used.any() else 0.0 for row, used in zip(spectra.ivar, known, strict=True)]
    return replace(spectra, ivar=np.where(known, np.array(usual)[:, None], 0.0))


def _continuum(section: "ContinuumSection", recipe: "Recipe") -> dict[str, Any]:
    given = {name: value for name, value in asdict(section).items() if value is not None}
    if isinstance(section.pixels, str):
        given["pixels"] = _read_pixels(recipe.resolve(section.pixels))
    return given


def _read_pixels(path: Path) -> tuple[int, ...]:
    """Indices from a file that holds indices, or a mask over the pixels."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with continuum pixels")
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False).astype(float)
        else:
            values = np.array(path.read_text(encoding="utf-8").split(), dtype=float)
    except UNREADABLE as error:
        raise ValueError(f"cannot read continuum pixels from {path}: {error}") from error
    if (
        values.ndim != 1
        or not values.size
        or not np.isfinite(values).all()
        or (values != np.rint(values)).any()
        or (values < 0).any()
    ):
        raise ValueError(f"{path} must hold indices of pixels, or a mask of 0 and 1 over all pixels")
    is_mask = values.size > 2 and np.isin(values, (0, 1)).all()
    return tuple((np.flatnonzero(values) if is_mask else values.astype(int)).tolist())


def _wavelength(spectra: Spectra, what: str) -> np.ndarray:
    if spectra.wavelength is None:
        raise ValueError(f"{what} needs the wavelengths of the pixels, and the spectra have none")
    return np.asarray(spectra.wavelength)


def _normalized(spectra: Spectra, continuum: Mapping[str, Any]) -> Spectra:
    wavelength = _wavelength(spectra, "the continuum")
    if "running_mean" in continuum:
        flux, ivar, _ = normalize_by_mean(wavelength, spectra.flux, spectra.ivar, continuum["running_mean"])
        return replace(spectra, flux=flux, ivar=ivar, units=_without_dimension(spectra.units))
    keywords = {name: value for name, value in continuum.items() if name not in ("pixels", "every")}
    if "every" in continuum:
        pixels = np.arange(0, spectra.n_pixels, continuum["every"])
    else:
        pixels = np.asarray(continuum["pixels"], dtype=int)
    flux, ivar, _, _ = normalize(wavelength, np.asarray(spectra.flux), np.asarray(spectra.ivar), pixels, **keywords)
    return replace(spectra, flux=flux, ivar=ivar, units=_without_dimension(spectra.units))


def _by_median(spectra: Spectra) -> Spectra:
    if spectra.attrs.get(FLUX_KIND) == OVER_MEDIAN:
        return spectra
    known = (spectra.ivar > 0) & np.isfinite(spectra.flux)
    median = np.array([np.median(y[used]) if used.any() else 0.0 for y, used in zip(spectra.flux, known, strict=True)])
    usable = (median > 0) & (known.mean(axis=1) >= ENOUGH)
    scale = np.where(usable, median, 1.0)[:, None]
    return replace(
        spectra,
        flux=spectra.flux / scale,
        ivar=np.where(usable[:, None], spectra.ivar * scale**2, 0.0),
        units=_without_dimension(spectra.units),
        attrs={**spectra.attrs, FLUX_KIND: OVER_MEDIAN},
    )


def _without_dimension(units: Mapping[str, str]) -> dict[str, str]:
    """The units of spectra whose flux has become a number."""
    return {name: "" if name == "flux" else unit for name, unit in units.items()}


def _chosen(spectra: Spectra, wavelength_range: tuple[float, float]) -> Spectra:
    wavelength = _wavelength(spectra, "wavelength_range")
    first, last = wavelength_range
    used = (wavelength >= first) & (wavelength <= last)
    if not used.any():
        raise ValueError(
            f"no pixel lies in wavelength_range = {list(wavelength_range)}; "
            f"the spectra cover {wavelength.min()} to {wavelength.max()}"
        )
    correlation = spectra.noise_correlation
    return replace(
        spectra,
        flux=spectra.flux[:, used],
        ivar=spectra.ivar[:, used],
        wavelength=wavelength[used],
        noise_correlation=None if correlation is None else correlation[np.ix_(used, used)],
    )


def _logarithm(spectra: Spectra) -> Spectra:
    flux, ivar = np.asarray(spectra.flux), np.asarray(spectra.ivar)
    usable = (ivar > 0) & (flux > 0)
    positive = np.where(usable, flux, 1.0)
    ivar, units = np.where(usable, ivar * positive**2, 0.0), _without_dimension(spectra.units)
    return replace(spectra, flux=np.log(positive), ivar=ivar, units=units)
