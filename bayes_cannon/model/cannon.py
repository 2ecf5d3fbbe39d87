"""`CannonModel`: the training set, what was learned from it, and the verbs train, test, read and write.

The class holds data and checks it; the work is done by `bayes_cannon.training.train` and `bayes_cannon.labelling.fit`,
on arrays.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bayes_cannon.core.checks import check_same_dispersion, check_spectra
from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.core.typing import Record
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.labelling.batches import check_batch, spectra_rows
from bayes_cannon.labelling.fit import fit_label_stream, fit_labels
from bayes_cannon.labelling.hull import in_convex_hull
from bayes_cannon.model.label_errors import CalibratedFit, LabelErrors
from bayes_cannon.model.record import StarRecord
from bayes_cannon.model.sampling_theta import ThetaSampling
from bayes_cannon.scatter.base import Scatter, warn_of_scatter
from bayes_cannon.scatter.selection import ScatterPath, as_scatter, scatter_path
from bayes_cannon.training.train import (
    RegularizationPath,
    check_op_method,
    correct_scatter,
    records,
    train,
    train_path,
    warn_of_failures,
)

_CERTIFICATES = ("objective", "duality_gap", "profile_gradient", "iterations", "status")
_LEASTSQ_KEYWORDS = ("ftol", "xtol", "gtol", "maxfev", "epsfcn", "factor", "Dfun", "col_deriv")


class CannonModel(ThetaSampling, LabelErrors):
    r"""A data-driven model of stellar spectra (Ness et al. 2015; Casey et al. 2016).

    The flux of star n at pixel j is :math:`y_{jn} \sim N(v(x_n) \cdot \theta_j, \sigma_{jn}^2 + s_j^2)` with the
    terms v of the scaled labels x. Training minimizes, for each pixel, over theta and s^2 jointly

    .. math:: \sum_n \frac{(y_n - v_n \cdot \theta)^2}{\sigma_n^2 + s^2} + \sum_n \ln(\sigma_n^2 + s^2)
              + \Lambda \sum_{d \ge 1} |\theta_d|

    Parameters
    ----------
    training_set_labels
        Labels of the N training stars: an array (star, label), or a structured array, mapping, astropy Table or
        pandas DataFrame with the label names as columns. In their usual units (K, dex), which are kept.
    training_set_flux, training_set_ivar
        Normalized flux and its inverse variance, shape (star, pixel). Where ivar is zero the flux is not used and may
        be NaN. Both may be None for a model that is only used, not trained.
    vectorizer
        The terms, usually a `vectorizer.PolynomialVectorizer`.
    dispersion
        Wavelength of each pixel, shape (pixel,), sorted; in the unit that censoring regions are given in.
    regularization
        Lambda: None (no regularization), a number, or one per pixel, shape (pixel,).
    censors
        Masks over pixels by label name; **True means censored** there. Empty by default.
    scale_factor
        The f of the label scaling ``x = (label - median) / (f (p97.5 - p2.5))``; Casey et al. (2016) use 2.
    label_units
        Unit of each label as text; by default those of the table's columns, where it has any.
    scatter
        Scatter that is correlated between pixels: ``scatter.LowRank(rank)`` adds :math:`U U^T` to the covariance of a
        spectrum, ``scatter.Full()`` fits all of it, ``scatter.Given(covariance)`` takes that of the noise from the
        survey, ``"auto"`` chooses by held-out spectra. None, the default, is the published model.

    Raises
    ------
    ValueError
        For shapes that do not fit, labels that are not finite, constant or perfectly correlated, negative or NaN ivar,
        flux that is not finite where ivar is positive, and invalid dispersion, regularization or censors.
    TypeError
        If ``vectorizer`` is no vectorizer.

    """

    # Verbs.

    def train(
        self,
        threads: int | None = None,
        op_method: str | None = None,
        op_strict: bool = True,
        op_kwds: Mapping[str, Any] | None = None,
        *,
        dof_correction: bool = False,
        max_memory: float | None = None,
        progress: ProgressOption = None,
    ) -> tuple[np.ndarray, np.ndarray, list[Record]]:
        """Learn theta and s2 of every pixel; a trained model starts from the theta that it has.

        Parameters
        ----------
        threads, op_strict
            Accepted for old scripts, without effect: all cores are used, and no solver needs another to finish its
            work. A result that is not certified says so in its status.
        op_method
            None: the package's own certified solver. ``"l_bfgs_b"``: SciPy's L-BFGS-B. ``"powell"``: SciPy's Powell.
            All minimize the same scalar.
        op_kwds
            Keywords of ``scipy.optimize.fmin_l_bfgs_b`` or ``fmin_powell`` under their documented names.
        dof_correction
            Return s2 of restricted maximum likelihood. Maximum likelihood, the default, is biased low by about
            ``(D / N)(s2 + sigma^2) / s2``. Theta and the certificates stay those of the maximum.
        max_memory
            Bytes of working memory of the certified solver, beside the training set and the result. By default it
            works on blocks of pixels that fit the cache, some tens of MB beside the moments of the training set.
        progress
            True for a bar on the standard error, or a function that is called with the number of pixels finished.

        Returns
        -------
        theta, s2, metadata
            Shape (pixel, term) and (pixel,), and one record per pixel (`bayes_cannon.training.train.records`).

        Raises
        ------
        TypeError
            If the model holds no training spectra, or for a keyword that the method does not know.
        ValueError
            For an unknown method, for too little memory, for a rank of the scatter above what stars and pixels allow,
            and for ``dof_correction`` with correlated scatter.

        """
        check_op_method(op_method)
        if dof_correction and self.scatter is not None:
            raise ValueError("dof_correction is for independent scatter; set scatter=None or leave it out")
        problem = self._problem()
        scatter = as_scatter(self.scatter_path().best) if isinstance(self._scatter, str) else self._scatter
        scatter.check(problem)
        with reporter(progress, problem.n_pixels, "pixel") as report:
            solution = train(
                problem,
                op_method=op_method,
                op_kwds=op_kwds,
                theta=self._theta,
                s2=self._s2,
                max_memory=max_memory,
                progress=report,
            )
            solution, learned = scatter.fit(problem, solution, self._learned_scatter)
        metadata = records(solution, op_method)
        if dof_correction:
            solution = correct_scatter(problem, solution)
        warn_of_failures(solution)
        warn_of_scatter(problem, solution, learned)
        self._scatter, self._learned_scatter, self._calibration = scatter, learned, None
        self._theta, self._s2, self._posterior, self._op_method = solution.theta, solution.s2, None, op_method
        self._training = {name: getattr(solution, name) for name in _CERTIFICATES}
        return self._theta, self._s2, metadata

    def train_path(
        self, lambdas: Sequence[float] | np.ndarray, *, progress: ProgressOption = None
    ) -> RegularizationPath:
        """Train at several regularization strengths, sharing the passes over the data; the model stays as it is.

        Parameters
        ----------
        lambdas
            The strengths, best in ascending order.
        progress
            As for `training.train`.

        Returns
        -------
        path
            theta, s2, the number of nonzero terms, the training scalar and the certificates at each strength.

        Raises
        ------
        TypeError
            If the model holds no training spectra.
        ValueError
            If a strength is negative or not finite.

        """
        problem = self._problem()
        with reporter(progress, problem.n_pixels, "pixel") as report:
            solutions = train_path(problem, lambdas, progress=report)
        return RegularizationPath.from_solutions(lambdas, solutions)

    def __call__(self, labels: Any) -> np.ndarray:
        """Model flux at the given labels: shape (pixel,) for one star, (star, pixel) for several.

        Pixels without a solution are NaN.

        Parameters
        ----------
        labels
            In their units, shape (label,) or (star, label).

        """
        theta, _ = self._trained()
        x = self._scaling.scaled(self._vectorizer.label_rows(labels))
        flux = monomials(x, self._vectorizer.exponents) @ theta.T
        return flux[0] if len(flux) == 1 else flux

    def scatter_path(self, candidates: Sequence[Scatter | None] | None = None, **options: Any) -> ScatterPath:
        """Likelihood of held-out spectra with several kinds of scatter, to choose one; the model stays as it is.

        Parameters
        ----------
        candidates
            What to try, such as ``[scatter.LowRank(5), scatter.LowRank(10), scatter.Full()]``; by default several ranks
            and, for up to a thousand pixels, the full covariance. Independent scatter is always tried. In ascending
            order of rank each starts from the one before.
        options
            ``n_folds``, ``held_out``, ``seed`` and ``progress`` of `scatter.selection.scatter_path`.

        Returns
        -------
        path
            ``path.table`` compares them, ``path.best`` is the best of them: set ``model.scatter = path.best``.

        Raises
        ------
        TypeError
            If the model holds no training spectra.
        ValueError
            If a rank is too large, or spectra are incomplete for a full covariance.

        """
        return scatter_path(self._problem(), candidates, **options)

    def latent_factors(self, flux: Any, ivar: Any, labels: Any) -> np.ndarray:
        """Posterior mean of the latent factors z of stars with these labels, dimensionless, shape (star, factor).

        Of a full covariance: the coordinates along its leading directions, each of unit variance.

        Parameters
        ----------
        flux, ivar
            Shape (star, pixel).
        labels
            In their units, shape (star, label).

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        ValueError
            If its scatter is independent, or for spectra that do not fit the model.

        """
        trained = self._optimum()
        flux, ivar = check_spectra(flux, ivar)
        check_batch(flux, ivar, trained.n_pixels)
        rows = self._vectorizer.label_rows(labels)
        if len(rows) != len(flux):
            raise ValueError(f"labels has {len(rows)} stars but flux {len(flux)}: both need one row a star")
        return trained.latent_factors(flux, ivar, rows)

    def test(
        self,
        flux: Any,
        ivar: Any,
        initial_labels: Any = None,
        threads: int | None = None,
        use_derivatives: bool | None = True,
        op_kwds: Mapping[str, Any] | None = None,
        *,
        dispersion: Any = None,
        progress: ProgressOption = None,
    ) -> tuple[np.ndarray, np.ndarray, list[Record]]:
        """Labels of spectra, by minimizing chi^2 with the scatter included (Casey et al. 2016, equation 3).

        Parameters
        ----------
        flux, ivar
            Normalized in the same way as the training set, shape (star, pixel) or (pixel,).
        initial_labels
            More points to start from, in label units: one set for all stars or one for each, shape (label,),
            (star, label) or (star, start, label). The best training stars are always tried.
        threads, use_derivatives, op_kwds
            Accepted for old scripts, without effect: all cores and exact derivatives are used, and Newton's method
            runs to convergence. ``op_kwds`` may hold the names that ``scipy.optimize.leastsq`` knows.
        dispersion
            Wavelengths of these spectra. If given they must be the model's.
        progress
            True for a bar on the standard error, or a function that is called with the number of stars finished.

        Returns
        -------
        labels, covariance, metadata
            Shape (star, label) and (star, label, label), **in label units**, and one record per star: ``status``,
            ``message``, ``chi_sq``, ``r_chi_sq``, ``n_pixels``, ``snr``, and, computed when asked for, ``model_flux``.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        ValueError
            For spectra that do not fit the model.

        """
        unknown = sorted(set(op_kwds or {}) - set(_LEASTSQ_KEYWORDS))
        if unknown:
            raise ValueError(f"unknown op_kwds {', '.join(unknown)}; known are {', '.join(_LEASTSQ_KEYWORDS)}")
        fit = self.fit_labels(flux, ivar, initial_labels=initial_labels, dispersion=dispersion, progress=progress)
        return (
            fit.labels,
            fit.covariance,
            [StarRecord(self, self.label_names, fit, star) for star in range(len(fit.labels))],
        )

    def fit_labels(
        self,
        flux: Any,
        ivar: Any,
        *,
        initial_labels: Any = None,
        dispersion: Any = None,
        progress: ProgressOption = None,
    ) -> CalibratedFit:
        """As `test`, with the results as arrays over stars."""
        self._trained()
        check_same_dispersion(dispersion, self._dispersion)
        spectra = spectra_rows(flux, ivar)
        with reporter(progress, len(spectra[0]), "star") as report:
            fit = fit_labels(self._label_model(), *spectra, initial_labels=initial_labels, progress=report)
        return self._calibrated(fit)

    def fit_label_stream(
        self, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, initial_labels: Any = None
    ) -> Iterator[CalibratedFit]:
        """As `fit_labels`, for spectra that arrive in batches; memory does not grow with their number.

        Parameters
        ----------
        batches
            Pairs of flux and ivar, shape (star, pixel), with any number of stars each.
        initial_labels
            One more set to start every star from, in label units, shape (label,).

        Yields
        ------
        fit
            For each batch, in order.

        """
        fits = fit_label_stream(self._label_model(), batches, initial_labels=initial_labels)
        return map(self._calibrated, fits)

    def in_convex_hull(self, labels: Any) -> np.ndarray:
        """Whether labels lie in the convex hull of the training labels, boolean, shape (star,).

        A point is inside if it is a weighted mean of training stars, which a linear program decides; unlike a
        triangulation it works in any number of labels.

        Parameters
        ----------
        labels
            In their units, shape (label,) or (star, label). NaN is outside.

        """
        points = self._scaling.scaled(self._vectorizer.label_rows(labels))
        return in_convex_hull(points, self._scaling.scaled(self._labels))


def load_model(path: str | os.PathLike) -> CannonModel:
    """As `CannonModel.read`, under the original package's older name."""
    return CannonModel.read(path)
