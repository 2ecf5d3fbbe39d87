"""What a model holds: the training set, how it is to be trained, and what was learned."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.censoring import Censors, design_matrix_mask
from bayes_cannon.core.checks import check_correlation, check_dispersion, check_regularization, check_spectra
from bayes_cannon.core.labels import label_array, label_units
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import BaseVectorizer
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.posterior.theta.summary import ThetaPosterior
from bayes_cannon.scatter.base import LearnedScatter, Scatter
from bayes_cannon.scatter.independent import Independent, IndependentScatter
from bayes_cannon.scatter.selection import AUTO
from bayes_cannon.training.problem import PixelProblem


class NotTrainedError(TypeError):
    """The model was asked for something that only a trained model knows. Call `CannonModel.train` first."""


class ModelData:
    """Attributes of `CannonModel`, which documents them, each checked where it is set."""

    def __init__(
        self,
        training_set_labels: Any,
        training_set_flux: Any,
        training_set_ivar: Any,
        vectorizer: BaseVectorizer,
        dispersion: Any = None,
        regularization: Any = None,
        censors: Mapping[str, Any] | None = None,
        *,
        scale_factor: float = 1.0,
        label_units: Mapping[str, str] | None = None,
        scatter: Scatter | str | None = None,
    ):
        if not isinstance(vectorizer, BaseVectorizer):
            raise TypeError(f"vectorizer must be a vectorizer.BaseVectorizer, got {type(vectorizer).__name__}")
        names = vectorizer.label_names
        self._vectorizer = vectorizer
        self._labels = label_array(training_set_labels, names)
        self._label_units = _units(training_set_labels, names, label_units)
        self._scaling = LabelScaling.from_labels(self._labels, names, scale_factor)
        check_correlation(self._labels, names)
        self._flux: np.ndarray | None = None
        self._ivar: np.ndarray | None = None
        self._theta: np.ndarray | None = None
        self._s2: np.ndarray | None = None
        self._learned_scatter: LearnedScatter = IndependentScatter()
        self._trained_model: tuple[tuple[Any, ...], TrainedModel] | None = None
        self._calibration: Calibration | None = None
        self._posterior: ThetaPosterior | None = None
        self._training: dict[str, np.ndarray] | None = None
        self._op_method: str | None = None
        self._provenance: dict[str, str] = {}
        self._n_pixels: int | None = None
        if training_set_flux is not None or training_set_ivar is not None:
            self._flux, self._ivar = check_spectra(training_set_flux, training_set_ivar, "training_set_")
            self._n_pixels = self._flux.shape[1]
            if len(self._flux) != len(self._labels):
                raise ValueError(
                    f"training_set_labels has {len(self._labels)} stars but training_set_flux {len(self._flux)}: "
                    "both need one row a star, in the same order"
                )
        elif dispersion is not None:
            self._n_pixels = np.size(dispersion)
        self._dispersion: np.ndarray | None = None
        self.dispersion = dispersion
        self.regularization = regularization
        self.censors = censors
        self.scatter = scatter

    # What the model holds.

    @property
    def vectorizer(self) -> BaseVectorizer:
        """The terms v."""
        return self._vectorizer

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self._vectorizer.label_names

    @property
    def label_units(self) -> dict[str, str]:
        """Unit of each label, as text; empty where none is known."""
        return dict(self._label_units)

    @property
    def training_set_labels(self) -> np.ndarray:
        """Labels of the training stars in their units, shape (star, label)."""
        return self._labels

    @property
    def training_set_flux(self) -> np.ndarray | None:
        """Normalized flux of the training stars, shape (star, pixel), or None."""
        return self._flux

    @property
    def training_set_ivar(self) -> np.ndarray | None:
        """Inverse variance of the flux, shape (star, pixel), or None."""
        return self._ivar

    @property
    def scaling(self) -> LabelScaling:
        """The map between labels and scaled labels."""
        return self._scaling

    @property
    def design_matrix(self) -> np.ndarray:
        """Terms of the training stars, shape (star, term)."""
        return self._training_terms().design

    @property
    def n_pixels(self) -> int | None:
        """Number of pixels, None where neither spectra nor a dispersion were given."""
        return self._n_pixels

    @property
    def dispersion(self) -> np.ndarray | None:
        """Wavelength of each pixel, shape (pixel,), or None."""
        return self._dispersion

    @dispersion.setter
    def dispersion(self, dispersion: Any) -> None:
        expected = np.size(dispersion) if self._n_pixels is None else self._n_pixels
        self._dispersion = check_dispersion(dispersion, expected)

    @property
    def regularization(self) -> float | np.ndarray | None:
        """Lambda: None, a number, or one per pixel."""
        return self._regularization

    @regularization.setter
    def regularization(self, regularization: Any) -> None:
        self._regularization = check_regularization(regularization, self._n_pixels)

    @property
    def censors(self) -> Censors:
        """Censoring masks by label name; True means censored. It may be changed in place; then train again."""
        return self._censors

    @censors.setter
    def censors(self, censors: Mapping[str, Any] | None) -> None:
        if censors is not None and not isinstance(censors, Mapping):
            raise TypeError(f"censors must map label names to masks, got {type(censors).__name__}")
        self._censors = Censors(self.label_names, self._n_pixels or 0, censors)

    @property
    def scatter(self) -> Scatter | str | None:
        """How the scatter is correlated between pixels; None is independent. Train again after a change.

        ``"auto"`` lets the next training choose, and becomes what it chose.
        """
        return None if isinstance(self._scatter, Independent) else self._scatter

    @scatter.setter
    def scatter(self, scatter: Scatter | str | None) -> None:
        if not (scatter is None or isinstance(scatter, Scatter) or (isinstance(scatter, str) and scatter == AUTO)):
            raise TypeError(f'scatter must be None, "auto", scatter.LowRank, Full or Given, got {scatter!r}')
        self._scatter: Scatter | str = Independent() if scatter is None else scatter

    @property
    def correlation(self) -> LearnedScatter | None:
        """What was learned of the correlated scatter; None where it is independent."""
        return None if isinstance(self._learned_scatter, IndependentScatter) else self._learned_scatter

    @property
    def factors(self) -> np.ndarray | None:
        """Factors U of the scatter in flux, shape (pixel, factor), the strongest first; None where it has none.

        Of a full covariance they are its leading directions.
        """
        return self._learned_scatter.factors

    @property
    def nu(self) -> float | None:
        """Degrees of freedom of a spectrum's Student-t distribution, infinite if normal; None if independent."""
        return None if self.correlation is None else self._learned_scatter.nu

    @property
    def theta(self) -> np.ndarray | None:
        """Coefficients, shape (pixel, term); None before training, NaN where a pixel has no solution."""
        return self._theta

    @property
    def s2(self) -> np.ndarray | None:
        """Variance of the intrinsic scatter, shape (pixel,); None before training, infinite where a pixel has none."""
        return self._s2

    @property
    def certificates(self) -> dict[str, np.ndarray] | None:
        """Arrays over pixels of the last training: objective, duality_gap, profile_gradient, iterations, status."""
        return None if self._training is None else dict(self._training)

    @property
    def provenance(self) -> dict[str, str]:
        """Where the model comes from, text by name; it may be added to, and is kept in the model file."""
        return self._provenance

    @property
    def is_trained(self) -> bool:
        """Whether theta and s2 are there."""
        return self._theta is not None and self._s2 is not None

    def reset(self) -> None:
        """Forget what was trained."""
        self._theta = self._s2 = self._calibration = self._training = self._op_method = self._posterior = None
        self._learned_scatter = IndependentScatter()

    def __str__(self) -> str:
        pixels = "an unknown number of" if self._n_pixels is None else self._n_pixels
        return (
            f"<{type(self).__name__} of {len(self.label_names)} labels "
            f"with a training set of {len(self._labels)} stars each with {pixels} pixels>"
        )

    def __repr__(self) -> str:
        return f"{str(self)[:-1]}, {'trained' if self.is_trained else 'not trained'}>"

    def _problem(self) -> PixelProblem:
        if self._flux is None or self._ivar is None:
            raise TypeError(
                "the model holds no training spectra. They are kept in a file only by "
                "write(..., include_training_set_spectra=True)"
            )
        n_pixels = self._flux.shape[1]
        lam = 0.0 if self._regularization is None else self._regularization
        lower, upper = self._bounds()
        return PixelProblem(
            self._training_terms(),
            self._flux,
            self._ivar,
            np.broadcast_to(np.float64(lam), (n_pixels,)),
            lower,
            upper,
        )

    def _training_terms(self) -> Terms:
        return Terms(self._vectorizer.exponents, self._scaling.scaled(self._labels))

    def _optimum(self) -> TrainedModel:
        """What training learned, theta being taken as known."""
        return TrainedModel(*self._trained(), self._learned_scatter, self._training_terms(), self._scaling)

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds on theta, shape (pixel, term): both zero where a term is censored."""
        free = design_matrix_mask(self._censors, self._vectorizer)
        return np.where(free, -np.inf, 0.0), np.where(free, np.inf, 0.0)

    def _trained(self) -> tuple[np.ndarray, np.ndarray]:
        if self._theta is None or self._s2 is None:
            raise NotTrainedError("the model is not trained: call train() first")
        return self._theta, self._s2


def _units(labels: Any, names: Sequence[str], given: Mapping[str, str] | None) -> dict[str, str]:
    unknown = sorted(set(given or {}) - set(names))
    if unknown:
        raise ValueError(f"label_units names {', '.join(unknown)}; the labels are {', '.join(names)}")
    return label_units(labels, names) | dict(given or {})
