"""Everything that a model holds, trained or not, as plain arrays and texts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.vectorizer import PolynomialVectorizer, Term
from bayes_cannon.scatter import Scatter

POSTERIOR_AXES = {
    "theta_mean": ("pixel", "term"), "theta_covariance": ("pixel", "pair"), "s2_mean": ("pixel",), "status": ("pixel",),
}  # fmt: skip
MODEL_CLASSES = ("CannonModel", "RestrictedCannonModel")
Bound = tuple[float | None, float | None]


@dataclass(frozen=True)
class ModelState:
    """What a model file holds. The shapes are checked against each other when it is made; the values are not.

    Attributes
    ----------
    model_class
        ``"CannonModel"`` or ``"RestrictedCannonModel"``.
    label_names
        Names of the K labels.
    terms
        Every term but the constant, as pairs (label index, power). Within a term the pairs are kept in the order of
        the labels, whatever order they are given in.
    fiducial, scale
        Zero point and range of each label, in its unit, shape (label,).
    training_set_labels
        In their units, shape (star, label).
    scale_factor
        The f of the label scaling, dimensionless.
    label_units
        Unit of each label as text. A label may be missing; an empty text means the same.
    dispersion
        Wavelength of each pixel, shape (pixel,), or None.
    regularization
        None, one number, or one per pixel, shape (pixel,).
    censors
        Mask over pixels of each censored label, True where it is censored.
    training_set_flux, training_set_ivar
        Shape (star, pixel), both or neither.
    theta, s2
        Coefficients, shape (pixel, term), and variance of the scatter, shape (pixel,), both or neither.
    factors, nu
        Factors of the correlated scatter, shape (pixel, factor), and degrees of freedom of its tails, both or neither.
    factor_noise, floor
        Of a full covariance: the noise across the factors, shape (pixel,), and the variance there in units of it.
    calibration
        Of the label errors.
    posterior
        Of the posterior of theta: ``theta_mean`` (pixel, term), ``theta_covariance``, the lower triangle of each
        pixel row by row (pixel, pair), ``s2_mean`` and ``status`` (pixel,).
    scatter
        What was asked for.
    training
        Certificates of the training, one array a name, each of shape (pixel,); texts as an array of objects.
    op_method
        Name of the optimizer that was asked for; None for the package's own.
    theta_bounds
        Lower and upper bound by the text of the term; None is no bound.
    provenance
        Where the file comes from, text by name; `write_model` fills in what it knows.

    Raises
    ------
    ValueError
        If two of these contradict each other, naming both.

    """

    model_class: str
    label_names: tuple[str, ...]
    terms: list[Term]
    fiducial: np.ndarray
    scale: np.ndarray
    training_set_labels: np.ndarray
    scale_factor: float = 1.0
    label_units: Mapping[str, str] = field(default_factory=dict)
    dispersion: np.ndarray | None = None
    regularization: float | np.ndarray | None = None
    censors: Mapping[str, np.ndarray] = field(default_factory=dict)
    training_set_flux: np.ndarray | None = None
    training_set_ivar: np.ndarray | None = None
    theta: np.ndarray | None = None
    s2: np.ndarray | None = None
    factors: np.ndarray | None = None
    factor_noise: np.ndarray | None = None
    nu: float | None = None
    floor: float = 1.0
    calibration: Calibration | None = None
    posterior: Mapping[str, np.ndarray] | None = None
    scatter: Scatter | str | None = None
    training: Mapping[str, np.ndarray] | None = None
    op_method: str | None = None
    theta_bounds: Mapping[str, Bound] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model_class not in MODEL_CLASSES:
            raise ValueError(f"model_class must be one of {', '.join(MODEL_CLASSES)}, got {self.model_class!r}")
        object.__setattr__(self, "label_names", tuple(self.label_names))
        object.__setattr__(self, "terms", self.vectorizer.terms)
        _check_shapes(self)
        for what in ("label_units", "censors"):
            for name in getattr(self, what):
                if name not in self.label_names:
                    raise ValueError(f"{what} names {name!r}; the labels are {', '.join(self.label_names)}")
        for term in self.theta_bounds:
            self.vectorizer.term_index(term)

    @property
    def vectorizer(self) -> PolynomialVectorizer:
        """The vectorizer of these terms."""
        return PolynomialVectorizer(self.label_names, terms=self.terms)

    @property
    def n_pixels(self) -> int | None:
        """Number of pixels P; None where nothing tells it."""
        for _, values, axes in _arrays(self):
            if "pixel" in axes:
                return values.shape[axes.index("pixel")]
        return None


def _arrays(state: ModelState) -> list[tuple[str, np.ndarray, tuple[str, ...]]]:
    """Every array that is there: what it is called, its values and its axes."""
    found: list[tuple[str, Any, tuple[str, ...]]] = [
        ("fiducial", state.fiducial, ("label",)),
        ("scale", state.scale, ("label",)),
        ("training_set_labels", state.training_set_labels, ("star", "label")),
        ("dispersion", state.dispersion, ("pixel",)),
        ("training_set_flux", state.training_set_flux, ("star", "pixel")),
        ("training_set_ivar", state.training_set_ivar, ("star", "pixel")),
        ("theta", state.theta, ("pixel", "term")),
        ("s2", state.s2, ("pixel",)),
        ("factors", state.factors, ("pixel", "factor")),
        ("factor_noise", state.factor_noise, ("pixel",)),
        *((f"calibration.{name}", values, axes) for name, values, axes in _calibration_arrays(state.calibration)),
        *((f"censors[{name!r}]", mask, ("pixel",)) for name, mask in state.censors.items()),
        *((f"posterior[{name!r}]", values, POSTERIOR_AXES[name]) for name, values in (state.posterior or {}).items()),
        *((f"training[{name!r}]", values, ("pixel",)) for name, values in (state.training or {}).items()),
    ]
    if state.regularization is not None and np.ndim(state.regularization) > 0:
        found.append(("regularization", state.regularization, ("pixel",)))
    return [(name, np.asarray(values), axes) for name, values, axes in found if values is not None]


def _calibration_arrays(calibration: Calibration | None) -> list[tuple[str, np.ndarray, tuple[str, ...]]]:
    if calibration is None:
        return []
    axes = {"log_scale": ("label",), "slope": ("label",), "floor": ("label", "label"), "power": ("label",)}
    return [(name, getattr(calibration, name), axis) for name, axis in axes.items()]


def _check_shapes(state: ModelState) -> None:
    pairs = [("theta", "s2"), ("factors", "nu"), ("training_set_flux", "training_set_ivar")]
    for one, other in pairs:
        if (getattr(state, one) is None) != (getattr(state, other) is None):
            raise ValueError(f"{one} and {other} belong together: give both or neither")
    sizes = {"label": (len(state.label_names), "label_names"), "term": (1 + len(state.terms), "terms and the constant")}
    sizes["pair"] = (sizes["term"][0] * (sizes["term"][0] + 1) // 2, "the lower triangle of all terms")
    for name, values, axes in _arrays(state):
        if values.ndim != len(axes):
            raise ValueError(f"{name} must have shape ({', '.join(axes)}), got shape {values.shape}")
        for axis, size in zip(axes, values.shape, strict=True):
            expected, source = sizes.setdefault(axis, (size, name))
            if size != expected:
                raise ValueError(
                    f"{name} has shape {values.shape}: its {axis} axis must have length {expected}, as {source} has"
                )
