"""What `CannonModel.test` reports of one star."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.status import StarStatus
from bayes_cannon.core.typing import Record
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.labelling.fit import LabelFit

_WITHOUT_MEANING = ("fjac", "ipvt", "qtf", "x0", "ftol", "xtol", "gtol", "maxfev", "factor", "epsfcn")
"""What MINPACK's ``leastsq`` reports of its own work or was told, and Newton's method has not."""


@dataclass(frozen=True, eq=False)
class ModelFlux:
    """Flux at given labels, by the theta that the labels were inferred with, whatever is trained later."""

    exponents: np.ndarray
    scaling: LabelScaling
    theta: np.ndarray

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Shape (pixel,), at labels in their units, shape (label,)."""
        return self.theta @ monomials(self.scaling.scaled(labels)[None], self.exponents)[0]


class StarRecord(dict[str, Any]):
    """What the test step reports of one star.

    ``model_flux``, shape (pixel,), and ``fvec`` are computed when they are asked for. The latter are the residuals of
    the used pixels over their errors, ``(model - flux) / (sigma^2 + s^2)^(1/2)``, as SciPy's ``leastsq`` has them; with
    independent scatter the sum of their squares is chi^2.
    """

    def __init__(
        self,
        model: Callable[[np.ndarray], np.ndarray],
        label_names: tuple[str, ...],
        fit: LabelFit,
        star: int,
        residuals: Callable[[np.ndarray], np.ndarray],
    ):
        status = StarStatus(fit.status[star])
        super().__init__(
            status=status,
            message=status.message,
            chi_sq=float(fit.chi_squared[star]),
            r_chi_sq=float(fit.reduced_chi_squared[star]),
            n_pixels=int(fit.n_pixels[star]),
            snr=float(fit.snr[star]),
            n_iterations=int(fit.iterations[star]),
            best_result_index=int(fit.start[star]),
            misfit=float(fit.misfit[star]),
            method="newton",
            label_names=label_names,
            # As leastsq names them: each iteration takes the value and the derivatives once.
            nfev=int(fit.iterations[star]),
            njev=int(fit.iterations[star]),
            ier=1 if status.has_solution else 5,
            mesg=status.message,
            derivatives_used=True,
        )
        if np.isfinite(fit.second_excess[star]):
            self |= {"second_labels": fit.second_labels[star], "second_excess": float(fit.second_excess[star])}
        if not status.has_solution:
            self["fail_message"] = status.message
        self._lazy = {"model_flux": model, "fvec": residuals}
        self._labels = fit.labels[star]

    def __missing__(self, key: str) -> np.ndarray:
        if key in self._lazy:
            return self.setdefault(key, self._lazy[key](self._labels))
        if key in _WITHOUT_MEANING:
            raise KeyError(f"{key}: Newton's method on the compressed spectrum has none; known are {', '.join(self)}")
        raise KeyError(key)


@dataclass(frozen=True, eq=False)
class _Residuals:
    """Residuals of one star over their errors."""

    model: ModelFlux
    flux: Any
    ivar: Any
    star: int
    s2: np.ndarray | None

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        if self.s2 is None:
            raise KeyError(
                "fvec: where the scatter is correlated, or theta is integrated out, chi^2 is no sum of squares of one "
                "residual a pixel; take model_flux"
            )
        flux, ivar = (np.asarray(array[self.star], dtype=float) for array in (self.flux, self.ivar))
        used = (ivar > 0) & np.isfinite(self.s2) & np.isfinite(self.model.theta).all(axis=1)
        return (self.model(labels)[used] - flux[used]) / np.sqrt(1 / ivar[used] + self.s2[used])


def star_records(
    fit: LabelFit, label_names: tuple[str, ...], model: ModelFlux, flux: Any, ivar: Any, s2: np.ndarray | None
) -> list[Record]:
    """A record for each star.

    Parameters
    ----------
    fit
        Of these stars.
    label_names
        Of the model.
    model
        Flux at given labels.
    flux, ivar
        Shape (star, pixel).
    s2
        Variance of the scatter, shape (pixel,), or None where chi^2 is no sum of squares.

    """
    return [
        StarRecord(model, label_names, fit, star, _Residuals(model, flux, ivar, star, s2))
        for star in range(len(fit.labels))
    ]
