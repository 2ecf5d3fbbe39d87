"""The training set: stars with known labels and their spectra."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import units as units_as_texts
from bayes_cannon.core.checks import (
    CORRELATION_WARNING,
    check_correlation,
    check_covariances,
    check_dispersion,
    check_spectra,
)
from bayes_cannon.core.intake import flux_and_ivar, in_unit
from bayes_cannon.core.labels import label_array, label_rows, label_units
from bayes_cannon.core.records import dims, encoded
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.typing import PerStar
from bayes_cannon.core.vectorizer import BaseVectorizer, PolynomialVectorizer
from bayes_cannon.labelling.leverage import leverage, leverage_root

STARS_OF_DERIVATIVE = 16
"""Training stars at which the derivative of a vectorizer of one's own is compared."""


@dataclass(frozen=True)
class StoredTerms:
    """The terms of a vectorizer as a file keeps them: names of the labels, and their powers (term, label)."""

    label_names: tuple[str, ...] = field(metadata=dims("label", about="names of the labels"))
    exponents: np.ndarray = field(metadata=dims("term", "label", about="power of each label in each term"))
    texts: tuple[str, ...] = field(metadata=dims("term", about="text of each term"))

    @classmethod
    def of(cls, vectorizer: BaseVectorizer) -> "StoredTerms":
        """Those of a vectorizer."""
        return cls(vectorizer.label_names, vectorizer.exponents, tuple(term_texts(vectorizer)))

    def vectorizer(self) -> PolynomialVectorizer:
        """A vectorizer of these terms."""
        terms = [tuple((int(k), int(row[k])) for k in np.flatnonzero(row)) for row in self.exponents[1:]]
        return PolynomialVectorizer(self.label_names, terms=terms)


def term_texts(vectorizer: BaseVectorizer) -> list[str]:
    """Text of each term, the constant being "1"."""
    return PolynomialVectorizer(vectorizer.label_names, terms=vectorizer.terms).readable_terms


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Stars with known labels and their spectra. Make it with `from_user`, which checks everything.

    Attributes
    ----------
    vectorizer
        The terms v.
    labels
        In their units, shape (star, label).
    label_units
        Unit of each label as text; a label may be missing.
    scaling
        Between labels and scaled labels.
    flux, ivar
        Normalized flux and its inverse variance, shape (star, pixel), or both None.
    dispersion
        Wavelength of each pixel, shape (pixel,), or None.
    flux_unit, dispersion_unit
        Units as text, None where they are not known; that of a flux without dimension is empty.
    covariance
        Of the noise of each star, shape (star, pixel, pixel), or None.

    """

    vectorizer: BaseVectorizer = field(metadata=encoded(StoredTerms.of, StoredTerms.vectorizer, StoredTerms))
    labels: np.ndarray = field(metadata=dims("star", "label", about="labels in their units"))
    scaling: LabelScaling
    label_units: Mapping[str, str] = field(default_factory=dict)
    flux: np.ndarray | None = field(metadata=dims("star", "pixel", about="normalized flux"), default=None)
    ivar: np.ndarray | None = field(metadata=dims("star", "pixel", about="inverse variance of the flux"), default=None)
    dispersion: np.ndarray | None = field(metadata=dims("pixel", about="wavelength"), default=None)
    flux_unit: str | None = None
    dispersion_unit: str | None = None
    covariance: np.ndarray | None = field(
        metadata=dims("star", "pixel", "other_pixel", about="covariance of the noise of the flux"), default=None
    )

    @classmethod
    def from_user(
        cls,
        labels: Any,
        flux: Any,
        ivar: Any,
        vectorizer: BaseVectorizer,
        *,
        dispersion: Any = None,
        scale_factor: float = 1.0,
        label_units: Mapping[str, str] | None = None,
        dispersion_unit: str | None = None,
        rho_warning: float = CORRELATION_WARNING,
        covariance: Any = None,
    ) -> "TrainingSet":
        """Check what a user hands over; the parameters and errors are those of `CannonModel`."""
        _check_vectorizer(vectorizer)
        names = vectorizer.label_names
        values = label_array(labels, names, label_units)
        units = _units(labels, names, label_units)
        scaling = LabelScaling.from_labels(values, names, scale_factor)
        check_correlation(values, names, rho_warning)
        _check_monomials(vectorizer, scaling.scaled(values))
        flux_unit = None
        if flux is not None or ivar is not None:
            given = flux, ivar
            flux, ivar, flux_unit = flux_and_ivar(flux, ivar, what="training_set_")
            flux, ivar = map(_own, check_spectra(flux, ivar, "training_set_"), given)
            if len(flux) != len(values):
                raise ValueError(
                    f"training_set_labels has {len(values)} stars but training_set_flux {len(flux)}: "
                    "both need one row a star, in the same order"
                )
        if covariance is not None:
            if ivar is None:
                raise ValueError(
                    "the covariance of the noise of training stars goes with their spectra: give these, too"
                )
            covariance = _own(check_covariances(covariance, ivar, "training_set_"), covariance)
            _check_finite(covariance)
        if dispersion_unit is not None:
            dispersion_unit = units_as_texts({"dispersion": dispersion_unit}, "dispersion_unit")["dispersion"]
        stars = cls(vectorizer, values, scaling, units, flux, ivar, None, flux_unit, dispersion_unit, covariance)
        return stars.with_dispersion(dispersion)

    def with_dispersion(self, dispersion: Any) -> "TrainingSet":
        """The same stars with these wavelengths, which are checked; those of a Quantity have their unit."""
        n_pixels = np.size(dispersion) if self.n_pixels is None else self.n_pixels
        unit = self.dispersion_unit
        if getattr(dispersion, "unit", None) is not None:
            dispersion, unit = in_unit(dispersion, unit, "dispersion")
        return replace(self, dispersion=check_dispersion(dispersion, n_pixels), dispersion_unit=unit)

    def of_stars(self, stars: np.ndarray) -> "TrainingSet":
        """Some of the stars, by mask or index; the scaling of the labels stays that of all."""
        given = self.flux, self.ivar, self.covariance
        flux, ivar, covariance = (None if array is None else array[stars] for array in given)
        return replace(self, labels=self.labels[stars], flux=flux, ivar=ivar, covariance=covariance)

    def without_spectra(self) -> "TrainingSet":
        """The labels alone."""
        return replace(self, flux=None, ivar=None, covariance=None)

    def check_values(self) -> None:
        """Raise ValueError where a file holds numbers that `from_user` would not let in, naming them."""
        positive: dict[str, Any] = {
            "the scale factor": self.scaling.factor,
            "the scale of the labels": self.scaling.scale,
        }
        others: dict[str, Any] = {
            "the fiducial labels": self.scaling.fiducial, "training_set_labels": self.labels,
            "training_set_ivar": self.ivar, "training_set_covariance": self.covariance, "dispersion": self.dispersion,
        }  # fmt: skip
        for name, values in (positive | others).items():
            if values is not None and not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite")
        for name, values in positive.items():
            if not np.all(np.asarray(values) > 0):
                raise ValueError(f"{name} must be positive")
        if self.ivar is not None and (self.ivar < 0).any():
            raise ValueError("training_set_ivar must not be negative")
        if self.dispersion is not None and len(self.dispersion) > 1 and not np.ptp(self.dispersion) > 0:
            raise ValueError("dispersion must not be the same for all pixels")

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.vectorizer.label_names

    @property
    def n_pixels(self) -> int | None:
        """Number of pixels, None where neither spectra nor wavelengths are known."""
        known = self.flux if self.flux is not None else self.dispersion
        return None if known is None else known.shape[-1]

    @cached_property
    def terms(self) -> Terms:
        """Terms at the scaled labels of the stars."""
        return Terms(self.vectorizer.exponents, self.scaling.scaled(self.labels))

    def terms_at(self, labels: Any) -> Terms:
        """Terms at other labels, in their units, as `rows` takes them."""
        return Terms(self.vectorizer.exponents, self.scaling.scaled(self.rows(labels)))

    def rows(self, labels: Any, what: str = "labels") -> np.ndarray:
        """Labels in any container, by name where it has names, in the units of these stars, shape (star, label)."""
        return label_rows(labels, self.label_names, self.label_units, what)

    @cached_property
    def _leverage_root(self) -> np.ndarray:
        return leverage_root(self.terms.design)

    def leverage(self, labels: Any) -> PerStar:
        """How far labels lie from those of the stars, whose mean is one (`labelling.leverage`), shape (star,)."""
        return leverage(self._leverage_root, self.terms_at(labels).design)


def _check_vectorizer(vectorizer: Any) -> None:
    if not isinstance(vectorizer, BaseVectorizer):
        raise TypeError(f"vectorizer must be a vectorizer.BaseVectorizer, got {type(vectorizer).__name__}")


def _check_monomials(vectorizer: BaseVectorizer, x: np.ndarray) -> None:
    """Refuse a vectorizer whose own label vector or derivative is not that of the monomials that its terms name."""
    own, plain = type(vectorizer), BaseVectorizer(vectorizer.label_names, vectorizer.terms)
    for name, wanted, points in (
        ("get_label_vector", "the product", [x]), ("__call__", "the product", [x]),
        ("get_label_vector_derivative", "the derivative of the product", x[:STARS_OF_DERIVATIVE]),
    ):  # fmt: skip
        if getattr(own, name) is getattr(BaseVectorizer, name):
            continue
        for labels in points:
            try:
                found = np.asarray(getattr(vectorizer, name)(labels), dtype=float)
            except NotImplementedError:
                break
            expected = getattr(plain, name)(labels)
            if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-9, atol=1e-12):
                raise TypeError(
                    f"{own.__name__}.{name} is not {wanted} of powers of the labels that its terms state, and only "
                    "such terms can be trained: give functions of the labels as labels of their own, and name them in "
                    "a PolynomialVectorizer"
                )


def _check_finite(covariance: np.ndarray) -> None:
    bad = ~np.isfinite(covariance)
    if bad.any():
        star, row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"training_set_covariance is {covariance[star, row, column]} at pixels {row} and {column} of star {star}: "
            "leave the star out, or set ivar to 0 and the numbers to 0 there"
        )


def _units(labels: Any, names: Sequence[str], given: Mapping[str, str] | None) -> dict[str, str]:
    given = units_as_texts(given, "label_units")
    unknown = sorted(str(name) for name in set(given) - set(names))
    if unknown:
        raise ValueError(f"label_units names {', '.join(unknown)}; the labels are {', '.join(names)}")
    return label_units(labels, names) | given


def _own(array: np.ndarray, given: Any) -> np.ndarray:
    """The array, copied where it is the user's, which may change; a file that is mapped read-only stays mapped."""
    users = array.flags.writeable and (array is given or not array.flags.owndata)
    return array.copy() if users else array
