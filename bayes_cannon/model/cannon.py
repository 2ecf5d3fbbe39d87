"""`CannonModel`: a face. It holds a training set, settings and one result, and calls functions on them.

Every verb checks what it is given, calls one function and keeps what comes back. A result is never changed in place: a
new training replaces it as a whole, so that a posterior or a calibration never outlives the theta that it belongs to.
This module is long because these docstrings are the reference that users read.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.arguments import check_kind, flag, mapping
from bayes_cannon.core.censoring import Censors
from bayes_cannon.core.checks import (
    CORRELATION_WARNING,
    check_regularization,
    check_same_dispersion,
    check_spectra,
)
from bayes_cannon.core.intake import is_plain, real_numbers
from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.core.records import equal
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.typing import PerStar, Record, StarLabel
from bayes_cannon.core.vectorizer import BaseVectorizer
from bayes_cannon.core.warnings import BayesCannonWarning, warn_user
from bayes_cannon.labelling.batches import check_batch, pairs_of_spectra, spectra_rows
from bayes_cannon.labelling.error_budget import ErrorBudget, error_budget
from bayes_cannon.labelling.fit import LabelFit, fit_label_stream, fit_labels, signal_to_noise
from bayes_cannon.labelling.hull import in_convex_hull
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.labelling.training_fit import training_goodness
from bayes_cannon.model.calibrating import CalibratedFit, calibrated_fit, learn_calibration
from bayes_cannon.model.order_selection import OrderPath, Polynomial, order_path, with_terms
from bayes_cannon.model.record import ModelFlux, star_records
from bayes_cannon.model.result import Certificates, TrainingResult
from bayes_cannon.model.settings import Bound, Settings, checked_noise, checked_theta_bounds
from bayes_cannon.model.stars import TrainingSet
from bayes_cannon.posterior.settings import LABEL_CHAINS, THETA_CHAINS
from bayes_cannon.posterior.theta.summary import ThetaPosterior
from bayes_cannon.scatter.base import LearnedScatter, Scatter, warn_of_scatter
from bayes_cannon.scatter.held_out_path import enough_folds
from bayes_cannon.scatter.independent import IndependentScatter
from bayes_cannon.scatter.selection import AUTO, ScatterPath, scatter_path
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.train import (
    RegularizationPath,
    check_op_method,
    correct_scatter,
    records,
    train,
    train_path,
    warn_of_failures,
)

if TYPE_CHECKING:
    import xarray as xr

    from bayes_cannon.execution.events import Event
    from bayes_cannon.execution.shards import Executor
    from bayes_cannon.io.preparation import Preparation
    from bayes_cannon.io.spectra_store import SpectraStore
    from bayes_cannon.model.label_plan import LabelPlan
    from bayes_cannon.model.store_labelling import Labelled
    from bayes_cannon.model.store_plan import TrainingPlan
    from bayes_cannon.model.store_training import StoreTraining

_LEASTSQ_KEYWORDS = ("ftol", "xtol", "gtol", "maxfev", "epsfcn", "factor", "Dfun", "col_deriv")


class NotTrainedError(TypeError):
    """A trained model is needed for this. Call `CannonModel.train` first."""


class StaleResultWarning(BayesCannonWarning):
    """Settings that decide theta have changed since it was trained."""


class StaleCalibrationWarning(BayesCannonWarning):
    """The model has forgotten its calibration, because it was that of other label errors."""


class CannonModel:
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
        be NaN; what is masked, of masked arrays, NDData or pandas, has ivar zero. The unit of a Quantity is kept, and
        later spectra are converted to it. The model has copies. Both may be None for a model that is only used, not
        trained.
    vectorizer
        The terms, usually a `vectorizer.PolynomialVectorizer`.
    dispersion
        Wavelength of each pixel, shape (pixel,); in the unit that censoring regions are given in. That of a Quantity
        is kept.
    regularization
        Lambda: None (no regularization), a number, or one per pixel, shape (pixel,).
    censors
        Masks over pixels by label name; **True means censored** there. Empty by default. The code of the original
        package does the reverse of what it says: invert the masks of scripts that were written to work with it.
    scale_factor
        The f of the label scaling ``x = (label - median) / (f (p97.5 - p2.5))``; Casey et al. (2016) use 2.
    label_units
        Unit of each label as text; by default those of the table's columns, where it has any. Columns in another unit
        are converted.
    dispersion_unit
        Unit of the wavelengths as text, such as ``"Angstrom"``, where ``dispersion`` does not carry it.
    scatter
        Scatter that is correlated between pixels: ``scatter.LowRank(rank)`` adds :math:`U U^T` to the covariance of a
        spectrum, ``scatter.Full()`` fits all of it, ``scatter.Given(covariance)`` takes that of the noise from the
        survey, ``"auto"`` chooses by held-out spectra. None, the default, is the published model.
    threads
        Accepted for old scripts, without effect: all cores are used.
    rho_warning
        Absolute correlation of two labels above which a `CorrelatedLabelsWarning` is given.
    covariance
        Of the noise of each training spectrum, in squared flux, shape (star, pixel, pixel), for ``scatter.Given()``;
        its diagonal is one over ivar. A memory map that is read-only is not copied.

    Raises
    ------
    ValueError
        For shapes that do not fit, labels that are not finite, constant or perfectly correlated, negative or NaN ivar,
        flux that is not finite where ivar is positive, and invalid dispersion, regularization or censors.
    TypeError
        If ``vectorizer`` is no vectorizer.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.uniform([4000, 1, -1], [5500, 3.5, 0.4], (200, 3))
    >>> x = (labels - [4750, 2.25, -0.3]) / [1500, 2.5, 1.4]
    >>> flux = 1 + x @ rng.normal(0, 0.05, (3, 60)) + 0.01 * rng.normal(size=(200, 60))
    >>> vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG", "FE_H"), 2)
    >>> model = tc.CannonModel(labels, flux, np.full(flux.shape, 1e4), vectorizer)
    >>> theta, s2, metadata = model.train()
    >>> theta.shape, s2.shape
    ((60, 10), (60,))
    >>> inferred, covariance, records = model.test(flux, model.training_set_ivar)
    >>> inferred.shape, covariance.shape
    ((200, 3), (200, 3, 3))

    """

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
        dispersion_unit: str | None = None,
        scatter: Scatter | str | None = None,
        threads: int | None = None,
        rho_warning: float = CORRELATION_WARNING,
        covariance: Any = None,
    ):
        self._stars = TrainingSet.from_user(
            training_set_labels, training_set_flux, training_set_ivar, vectorizer, dispersion=dispersion,
            scale_factor=scale_factor, label_units=label_units, dispersion_unit=dispersion_unit,
            rho_warning=rho_warning, covariance=covariance,
        )  # fmt: skip
        self._settings = Settings()
        self._result: TrainingResult | None = None
        self._provenance: dict[str, str] = {}
        self.regularization, self.censors, self.scatter = regularization, censors, scatter

    @classmethod
    def _of(
        cls, stars: TrainingSet, settings: Settings, result: TrainingResult | None = None,
        provenance: Mapping[str, str] | None = None,
    ) -> Self:  # fmt: skip
        """A model of these parts, whatever the constructor of a subclass asks for."""
        model = cls.__new__(cls)
        model._stars, model._settings, model._result = stars, settings, result
        model._provenance = dict(provenance or {})
        model.censors = settings.censors
        return model

    # Training.

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
            Bytes of working memory of the certified solver, in addition to the training set and the result. By default
            it works on blocks of pixels that fit the cache, some tens of MB in addition to the moments of the training
            set.
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
        if flag(dof_correction, "dof_correction") and self.scatter is not None:
            raise ValueError("dof_correction is for independent scatter; set scatter=None or leave it out")
        problem, before = self._problem(), self._result
        family = self.scatter
        if isinstance(family, str):
            family = self.scatter_path(held_out=enough_folds(problem.n_stars)).best
        if family is not None:
            family.check(problem)
        start: dict[str, Any] = {} if before is None else {"theta": before.theta, "s2": before.s2}
        with reporter(progress, problem.n_pixels, "pixel", "train") as report:
            solution = train(
                problem, op_method=op_method, op_kwds=op_kwds, max_memory=max_memory, progress=report, **start
            )
            learned: LearnedScatter = IndependentScatter()
            if family is not None:
                solution, learned = family.fit(problem, solution, None if before is None else before.scatter)
        metadata = records(solution, op_method)
        if dof_correction:
            solution = correct_scatter(problem, solution)
        warn_of_failures(solution)
        warn_of_scatter(problem, solution, learned)
        self._settings = replace(self._settings, scatter=family)
        result = TrainingResult(
            self._stars, solution.theta, solution.s2, learned, "" if family is None else repr(family),
            Certificates.of(solution), self._settings.snapshot(), op_method, dof_correction,
        )  # fmt: skip
        self._result = replace(result, goodness=training_goodness(result.plug_in, problem))
        return solution.theta, solution.s2, metadata

    def train_store(
        self,
        store: "SpectraStore",
        *,
        stars: Any = None,
        preparation: "Preparation | None" = None,
        op_method: str | None = None,
        op_kwds: Mapping[str, Any] | None = None,
        dof_correction: bool = False,
        memory: float | str | None = None,
        executor: "Executor | None" = None,
        scratch: str | os.PathLike[str] | None = None,
        progress: ProgressOption = None,
        listen: "Callable[[Event], object] | None" = None,
    ) -> tuple[np.ndarray, np.ndarray, list[Record]]:
        """Train from a store of spectra that need not fit the memory; the model holds none of them afterwards.

        Each pixel has the optimum, certificate and status that `train` gives it. Blocks of pixels are trained one after
        the other. Where reading them from the store would decode it too often, all spectra are first written to a
        scratch store of blocks of pixels; `plan_store` says so beforehand, and the logger ``bayes_cannon`` (level
        INFO) tells it. A training that was broken off goes on with the blocks that it had finished, if the same is
        asked for.

        Parameters
        ----------
        store
            From `bayes_cannon.io.open_store`. A model without wavelengths takes those of the store.
        stars
            Rows of the store that train, ascending, in the order of the training labels; None: all of them.
        preparation
            What is done to each spectrum; by default nothing.
        op_method, op_kwds, dof_correction
            As for `train`.
        memory
            Limit for a process, in bytes or as text such as ``"2 GB"``; by default half of what the computer has, or
            what a worker has if that is less.
        executor
            Where the work is done, as for `label_store`: by default in this process (`execution.SerialExecutor`), one
            block after the other, while a thread reads ahead. `execution.DaskExecutor` has it done by other processes.
        scratch
            Folder for finished blocks and the scratch store, created if needed; all workers need it. The scratch store
            stays there, for another training of the same spectra. By default it is beside the store, with the name of
            the store and ``.training``, and is removed at the end.
        progress
            True for a bar on the standard error, or a function that is called with the number of pixels finished.
        listen
            Called with every event, as for `label_store`: first of batches of stars, where all spectra are written to
            a scratch store, then of blocks of pixels.

        Returns
        -------
        theta, s2, metadata
            As for `train`.

        Raises
        ------
        ConnectionError
            If a scheduler is lost, or for five minutes all its workers are, or have no memory left.
        FileNotFoundError
            If the store is removed meanwhile, or a worker does not see it or the scratch folder.
        ImportError
            If a worker has another version of this package.
        OSError
            If a block cannot be written, as on a full disk. What was written stays.
        ValueError
            If the memory or the disk is too small, with the numbers; for scatter that is not independent; if the store
            has another number of stars or pixels, or other wavelengths, or holds what no training set may; for a
            scratch folder that belongs to another training; for blocks that failed three times, after all others were
            trained; and as `train` does.
        TypeError
            For a keyword that the method does not know.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> labels = rng.uniform([4000, 1], [5500, 3.5], (100, 2))
        >>> flux = 1 + (labels - [4750, 2.25]) / [1500, 2.5] @ rng.normal(0, 0.05, (2, 20))
        >>> tc.io.write_spectra("training.zarr", tc.io.Spectra(flux, np.full(flux.shape, 1e4)))
        >>> vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 1)
        >>> model = tc.CannonModel(labels, None, None, vectorizer)
        >>> theta, s2, metadata = model.train_store(tc.io.open_store("training.zarr"), memory="2 GB")
        >>> theta.shape, model.training_set_flux is None
        ((20, 3), True)

        """
        work, prepared = self._store_work(
            store, stars, preparation, memory, scratch, executor, op_method=op_method, op_kwds=op_kwds,
            dof_correction=dof_correction,
        )  # fmt: skip
        solution, spectra_hash = work.run(executor, progress=progress, listen=listen)
        warn_of_failures(solution)
        family = self.scatter
        result = TrainingResult(
            prepared, solution.theta, solution.s2, IndependentScatter(), "" if family is None else repr(family),
            Certificates.of(solution), self._settings.snapshot(), op_method, dof_correction,
        )  # fmt: skip
        self._stars, self._result = prepared, replace(result, goodness=work.goodness(result.plug_in))
        self._provenance["training_set_sha256"] = spectra_hash
        self.censors = self._settings.censors  # Now the number of pixels is known.
        work.tidy(keep_blocks=scratch is not None)
        return solution.theta, solution.s2, records(solution, op_method)

    def plan_store(
        self,
        store: "SpectraStore",
        *,
        stars: Any = None,
        preparation: "Preparation | None" = None,
        op_method: str | None = None,
        dof_correction: bool = False,
        memory: float | str | None = None,
        executor: "Executor | None" = None,
    ) -> "TrainingPlan":
        """How `train_store` would go: blocks of pixels, bytes read and written, peak memory, and whether it transposes.

        Parameters and errors are those of `train_store`; nothing is written.
        """
        work, _ = self._store_work(
            store, stars, preparation, memory, None, executor, op_method=op_method, dof_correction=dof_correction
        )
        return work.plan

    def train_path(
        self, lambdas: Sequence[float] | np.ndarray, *, progress: ProgressOption = None
    ) -> RegularizationPath:
        """Train at several regularization strengths, sharing the passes over the data; the model stays as it is.

        Parameters
        ----------
        lambdas
            The strengths, best in ascending order.
        progress
            As for `train`.

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
        with reporter(progress, problem.n_pixels, "pixel", "train a path of regularizations") as report:
            solutions = train_path(problem, lambdas, progress=report)
        return RegularizationPath.from_solutions(lambdas, solutions)

    def scatter_path(self, candidates: Sequence[Scatter | None] | None = None, **options: Any) -> ScatterPath:
        """Labels and likelihood of held-out spectra with several kinds of scatter; the model stays as it is.

        Parameters
        ----------
        candidates
            What to try, such as ``[scatter.LowRank(5), scatter.LowRank(10), scatter.Full()]``; by default several ranks
            and, for up to five thousand pixels, the full covariance. Independent scatter is always tried. In ascending
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

    def order_path(
        self,
        orders: Sequence[int] | None = None,
        regularizations: Sequence[float] | Mapping[int, Sequence[float]] | None = None,
        **options: Any,
    ) -> OrderPath:
        """Labels and likelihood of held-out spectra with polynomials of several orders; the model stays as it is.

        The scatter is that of the model, independent for ``"auto"``. Labels are not inferred: their errors are linear
        in the residuals of the spectra at the reference labels (`scatter.held_out_labels`). The scale factor is no
        candidate: without a penalty the spectra are the same with any, and with one it does what Lambda does.

        Parameters
        ----------
        orders
            By default those of 1 to 4 that stars and memory allow; ``path.left_out`` says why others were not tried.
        regularizations
            Lambdas that are tried with every order, such as ``(0, 10, 100)``, or some orders by a mapping: they make
            coefficients zero, so that each pixel has its own terms. By default that of the model.
        options
            ``n_folds``, ``held_out``, ``seed``, ``groups`` and ``progress`` of `model.order_selection.order_path`. By
            default as many of five folds are held out as have 300 stars, or all.

        Returns
        -------
        path
            ``path.table`` compares them, and ``path.best`` is the one with the fewest terms of those that nothing
            beats by more than its standard error (`scatter.held_out_path.HeldOutPath.best_index`):
            ``model.with_terms(path.best)`` is its model.

        Raises
        ------
        TypeError
            If the model holds no training spectra.
        ValueError
            If an order that is asked for has too many terms for the stars or the memory, with these numbers.

        Examples
        --------
        >>> path = model.order_path((1, 2))
        >>> [str(candidate) for candidate in path.candidates]
        ['order 1', 'order 2']
        >>> model.with_terms(path.candidates[0]).vectorizer.human_readable_label_vector
        '1 + TEFF + LOGG + FE_H'

        """
        return order_path(self._stars, self._settings, orders, regularizations, **options)

    def with_terms(self, choice: Polynomial) -> Self:
        """A model with the same stars and settings and a chosen polynomial, not trained.

        Parameters
        ----------
        choice
            The ``best``, or another candidate, of an `order_path`.

        """
        check_kind(choice, Polynomial, "choice", "a candidate of an order_path, such as path.best")
        return self._of(*with_terms(self._stars, self._settings, choice), None, self._provenance)

    def use_theta(self, theta: Any, s2: Any) -> None:
        """Take coefficients and scatter from elsewhere, such as another program; the scatter is independent.

        Parameters
        ----------
        theta
            Coefficients of the terms at the scaled labels (`scaling`), shape (pixel, term).
        s2
            Variance of the scatter, shape (pixel,). Pixels where either is not finite are not used.

        Raises
        ------
        ValueError
            For another shape, or a negative variance.

        """
        theta, s2 = real_numbers(theta, "theta"), real_numbers(s2, "s2")
        if theta.ndim != 2:
            raise ValueError(f"theta must have shape (pixel, term), got {theta.shape}")
        if len(theta) != (self._stars.n_pixels or len(theta)):
            raise ValueError(f"theta is of {len(theta)} pixels, and the model has {self._stars.n_pixels}")
        self._result = TrainingResult.from_elsewhere(self._stars, theta, s2, self._settings)

    def reset(self) -> None:
        """Forget what was trained."""
        self._result = None

    # The model of a spectrum.

    def __call__(self, labels: Any) -> np.ndarray:
        """Model flux at the given labels: shape (pixel,) for one star, (star, pixel) for several.

        Pixels without a solution are NaN.

        Parameters
        ----------
        labels
            In their units, shape (label,) or (star, label).

        """
        flux = self._stars.terms_at(labels).design @ self._trained().theta.T
        return flux[0] if len(flux) == 1 else flux

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
        result = self._trained()
        flux, ivar = check_spectra(*self._spectra(flux, ivar))
        check_batch(flux, ivar, len(result.theta))
        terms = self._stars.terms_at(labels)
        if terms.n_stars != len(flux):
            raise ValueError(f"labels has {terms.n_stars} stars but flux {len(flux)}: both need one row a star")
        return result.scatter.latent_factors(PixelProblem.unbounded(terms, flux, ivar), result)

    def leverage(self, labels: Any) -> PerStar:
        """How far labels lie from those of the training stars, whose mean is one (`labelling.leverage`), shape (star,).

        Parameters
        ----------
        labels
            In their units, shape (label,) or (star, label). NaN gives NaN.

        """
        return self._stars.leverage(labels)

    def in_convex_hull(self, labels: Any) -> np.ndarray:
        """Whether labels lie in the convex hull of the training labels, boolean, shape (star,).

        A point is inside if it is a weighted mean of training stars, which a linear program decides; unlike a
        triangulation it works in any number of labels.

        Parameters
        ----------
        labels
            In their units, shape (label,) or (star, label). NaN is outside.

        """
        return in_convex_hull(self._stars.terms_at(labels).x, self._stars.terms.x)

    # Labels.

    def test(
        self,
        flux: Any,
        ivar: Any,
        initial_labels: Any = None,
        threads: int | None = None,
        use_derivatives: bool | None = True,
        op_kwds: Mapping[str, Any] | None = None,
        *,
        prior: Any = None,
        dispersion: Any = None,
        covariance: Any = None,
        progress: ProgressOption = None,
    ) -> tuple[np.ndarray, np.ndarray, list[Record]]:
        """Labels of spectra, by minimizing chi^2 with the scatter included (Casey et al. 2016, equation 3).

        With a ``prior`` they are posterior means in place of these; see `fit_labels`.

        Parameters
        ----------
        flux, ivar
            Normalized in the same way as the training set, shape (star, pixel) or (pixel,).
        initial_labels
            More points to start from, in label units: one set for all stars or one for each, shape (label,),
            (star, label) or (star, start, label). The best training stars are always tried.
        threads, use_derivatives, op_kwds
            Accepted for old scripts, without effect: all cores and exact derivatives are used, and Newton's method
            runs to convergence. ``op_kwds`` may hold keywords of ``scipy.optimize.leastsq``.
        prior
            As for `fit_labels`.
        dispersion
            Wavelengths of these spectra. If given they must be the model's.
        covariance
            Of the noise of each spectrum, shape (star, pixel, pixel), where the model has ``scatter.Given()``. A star
            with numbers that are not finite has no labels.
        progress
            True for a bar on the standard error, or a function that is called with the number of stars finished.

        Returns
        -------
        labels, covariance, metadata
            Shape (star, label) and (star, label, label), **in label units**, and one record per star: ``status``,
            ``message``, ``chi_sq``, ``r_chi_sq``, ``n_pixels``, ``snr``, ``misfit``, ``second_labels`` where other
            labels fit nearly as well, and, computed when asked for, ``model_flux``. A star that cannot be labelled has
            NaN and a status that says why; the others are not affected.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        ValueError
            For spectra that do not fit the model.

        """
        unknown = sorted(set(map(str, mapping(op_kwds, "op_kwds", "keywords to values"))) - set(_LEASTSQ_KEYWORDS))
        if unknown:
            raise ValueError(f"unknown op_kwds {', '.join(unknown)}; known are {', '.join(_LEASTSQ_KEYWORDS)}")
        flux, ivar = self._spectra(flux, ivar, dispersion)
        fit = self.fit_labels(
            flux, ivar, initial_labels=initial_labels, prior=prior, covariance=covariance, progress=progress
        )
        trained = self._label_model()
        s2 = None if trained.scatter.is_correlated or trained.theta_covariance is not None else trained.s2
        model = ModelFlux(self.vectorizer.exponents, self.scaling, trained.theta)
        return fit.labels, fit.covariance, star_records(fit, self.label_names, model, flux, ivar, s2)

    def fit_labels(
        self,
        flux: Any,
        ivar: Any,
        *,
        initial_labels: Any = None,
        prior: Any = None,
        dispersion: Any = None,
        covariance: Any = None,
        progress: ProgressOption = None,
    ) -> CalibratedFit:
        """As `test`, with the results as arrays over stars.

        Parameters
        ----------
        flux, ivar, initial_labels, dispersion, covariance, progress
            As for `test`.
        prior
            None: the labels of highest likelihood. Otherwise a prior as for `sample_labels`, such as ``"population"``,
            the mixture that the training labels follow: the fit is a `PosteriorFit`, whose labels are posterior means
            and whose covariance is that of the posterior, and which keeps the labels of highest likelihood beside
            them. Where theta is not sampled and all pixels share their weights (`scatter.Full` without penalty), it is
            integrated out in closed form. A calibration is one of the labels of highest likelihood, and is not applied.

            The population of the training set is the right prior where stars are chosen as the training stars were.
            Where they are not, it biases labels towards those that the training set has more of.

        Notes
        -----
        What spectra depend on but nobody asks for, such as an extinction that is known of the training stars, may be
        one more label: the labels and the rows and columns of the covariance of the others, such as
        ``fit.labels[:, :3]`` and ``fit.covariance[:, :3, :3]``, are then those with it integrated out. Where it is left
        out its effect passes for that of the others, whose errors are too small.

        """
        result = self._trained()
        flux, ivar = self._spectra(flux, ivar, dispersion)
        noise = checked_noise(covariance, ivar, result.scatter)
        with reporter(progress, flux.shape[0], "star", "label") as report:
            fit = fit_labels(
                self._label_model(), flux, ivar, initial_labels=self._starts(initial_labels), covariance=noise,
                progress=report,
            )  # fmt: skip
        if prior is None:
            return calibrated_fit(fit, result.calibration, self._stars)
        return self._with_prior(fit, flux, ivar, prior, noise)

    def _with_prior(
        self, fit: LabelFit, flux: Any, ivar: Any, prior: Any, covariance: np.ndarray | None
    ) -> CalibratedFit:
        """The fit with posterior means under a prior."""
        from bayes_cannon.model.posterior_fit import posterior_fit  # NumPyro takes half a second to import.
        from bayes_cannon.posterior.labels.label_posterior import RegionModel, label_posterior
        from bayes_cannon.posterior.labels.priors import LabelPrior

        label_prior = LabelPrior.of_labels(
            prior, label_names=self.label_names, scaling=self.scaling, training_labels=self.training_set_labels
        )
        trained = self._label_model()
        inside = trained.theta_covariance is None and self.integrate_theta
        closed = self._trained().shared_theta_covariance if inside else None
        found = label_posterior([RegionModel(trained, label_prior, closed)], flux, ivar, covariance=covariance)
        return posterior_fit(
            fit, found.labels, found.covariance, log_evidence=found.log_evidence, efficiency=found.efficiency,
            region_weights=found.weights, calibration=None, stars=self._stars,
        )  # fmt: skip

    def fit_label_stream(
        self, batches: Iterable[tuple[np.ndarray, np.ndarray]], *, initial_labels: Any = None, prior: Any = None
    ) -> Iterator[CalibratedFit]:
        """As `fit_labels`, for spectra that arrive in batches; memory does not grow with their number.

        Parameters
        ----------
        batches
            Pairs of flux and ivar, shape (star, pixel), with any number of stars each.
        initial_labels
            One more set to start every star from, in label units, shape (label,).
        prior
            As for `fit_labels`.

        Yields
        ------
        fit
            For each batch, in order.

        """
        result = self._trained()
        if prior is not None:
            pairs = pairs_of_spectra(batches)
            return (self.fit_labels(*pair, initial_labels=initial_labels, prior=prior) for pair in pairs)
        spectra = (self._spectra(*pair) for pair in pairs_of_spectra(batches))
        fits = fit_label_stream(self._label_model(), spectra, initial_labels=self._starts(initial_labels))
        return (calibrated_fit(fit, result.calibration, self._stars) for fit in fits)

    def label_store(
        self,
        store: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        executor: "Executor | None" = None,
        error_budget: bool = False,
        prior: str | None = None,
        progress: ProgressOption = None,
        listen: "Callable[[Event], object] | None" = None,
    ) -> "Labelled":
        """Label all spectra of a store, shard by shard, into a store of labels.

        The shards that the store of labels has already are not done again, so that a run that was killed, or for which
        a disk was full, goes on where it ended. The labels are those of `fit_labels`.

        Parameters
        ----------
        store
            Zarr store of spectra, as `bayes_cannon.io.ingest` writes it. What the recipe of this model did to its
            training spectra is done to them, unless it was done before they were written.
        out
            Zarr store of labels (``.zarr``), which `bayes_cannon.io.open_labels` opens and
            `bayes_cannon.io.export_labels` makes a catalogue of.
        executor
            Where the work is done: by default in this process (`execution.SerialExecutor`), whose compiled programs
            use all cores, while a thread reads ahead. `execution.DaskExecutor` has it done by other processes.
        error_budget
            Keep the sources of each label's error too.
        prior
            Name of a prior, as for `fit_labels`.
        progress
            True for a bar on the standard error, or a function that is called with the number of stars finished.
        listen
            Called with every event: `execution.ShardDone`, `ShardFailed`, and in the end `RunFinished`.

        Returns
        -------
        labelled
            How many stars, the time and the memory, and the plan.

        Raises
        ------
        ConnectionError
            If a scheduler is lost, or for five minutes all its workers are, or have no memory left.
        FileNotFoundError
            If there is no such store, it is removed meanwhile, or a worker does not see it.
        ImportError
            If a worker has another version of this package, or an extra is not installed.
        NotTrainedError
            If the model is not trained.
        OSError
            If labels cannot be written, as on a full disk. What was written stays.
        ValueError
            If a worker has too little memory for a shard, saying what would fit; if the store of labels is of another
            model or other spectra; if shards cannot be labelled, after all others were.

        Examples
        --------
        >>> spectra = tc.io.Spectra(model.training_set_flux, model.training_set_ivar, model.dispersion)
        >>> tc.io.write_spectra("survey.zarr", spectra)
        >>> labelled = model.label_store("survey.zarr", "survey-labels.zarr")
        >>> labelled.n_stars, labelled.n_new
        (200, 200)

        """
        from bayes_cannon.model.store_labelling import label_store  # HDF5 and xarray take half a second to import.

        return label_store(
            self, store, out, executor=executor, error_budget=error_budget, prior=prior, progress=progress,
            listen=listen,
        )  # fmt: skip

    def label_plan(
        self,
        store: str | os.PathLike[str],
        out: str | os.PathLike[str] | None = None,
        *,
        error_budget: bool = False,
        prior: str | None = None,
        reads_ahead: bool = True,
    ) -> "LabelPlan":
        """What it takes to label a store of spectra, from shapes alone, and which shards a store of labels lacks.

        Parameters
        ----------
        store, out, error_budget, prior
            As for `label_store`. Without ``out``, or where there is none yet, all shards are missing.
        reads_ahead
            Whether a process reads one shard while it computes another: this one does, workers of Dask do not.

        Returns
        -------
        plan
            Bytes that are read and written of each shard, the missing shards, and the peak memory of a worker;
            ``plan.check(available)`` is the ValueError of `label_store` where that is too much.

        Examples
        --------
        >>> spectra = tc.io.Spectra(model.training_set_flux, model.training_set_ivar, model.dispersion)
        >>> tc.io.write_spectra("planned.zarr", spectra)
        >>> plan = model.label_plan("planned.zarr")
        >>> plan.n_stars, plan.missing
        (200, (0,))

        """
        from bayes_cannon.model.store_labelling import plan_labels  # HDF5 and xarray take half a second to import.

        return plan_labels(self, store, out, error_budget=error_budget, prior=prior, reads_ahead=reads_ahead)

    def label_frame(self, frame: Any, *, flux: str = "flux", ivar: str = "ivar") -> Any:
        """Labels of the spectra in the rows of a data frame; for ``map_partitions`` of Dask or LSDB.

        Parameters
        ----------
        frame
            A frame of pandas, or one that behaves so, with a spectrum in each row.
        flux, ivar
            Its columns with lists or arrays of one number a pixel. A row that lacks one, such as None, has no labels,
            and a status that says so.

        Returns
        -------
        labels
            The other columns of the frame, with its index, and those of `bayes_cannon.io.label_table` but for
            ``star_id`` and ``covariance``. A frame without rows gives one without rows, of the same columns and types:
            ``frame.map_partitions(model.label_frame, meta=model.label_frame(frame.head(0)))``.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        ValueError
            If the frame has no such column, a column with the name of a result, or a spectrum with another number of
            pixels than the model, naming its row.

        Examples
        --------
        >>> import pandas as pd
        >>> flux, ivar = model.training_set_flux[:2], model.training_set_ivar[:2]
        >>> frame = pd.DataFrame({"id": ["a", "b"], "flux": list(flux), "ivar": list(ivar)})
        >>> model.label_frame(frame).columns[:3].tolist()
        ['id', 'TEFF', 'TEFF_ERR']

        """
        from bayes_cannon.model.frames import label_frame  # Astropy's tables take half a second to import.

        return label_frame(self, frame, flux, ivar)

    def error_budget(self, flux: Any, ivar: Any, fit: CalibratedFit | None = None) -> ErrorBudget:
        """Where the errors of the labels of these stars come from (`labelling.error_budget`).

        Parameters
        ----------
        flux, ivar
            Spectra, shape (star, pixel).
        fit
            Their fit by this model, if it is there already.

        Returns
        -------
        budget
            Variance of each label of each star by source, which add up to the diagonal of the fit's covariance.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        ValueError
            For spectra that do not fit the model, or a fit of other stars.

        """
        result = self._trained()
        fit = self.fit_labels(flux, ivar) if fit is None else fit
        check_kind(fit, CalibratedFit, "fit", "what fit_labels of this model returns")
        ivar = np.asarray(self._spectra(flux, ivar)[1], dtype=float)
        if len(fit.labels) != len(ivar):
            raise ValueError(f"the fit has {len(fit.labels)} stars but ivar {len(ivar)}")
        budget = error_budget(self._label_model(), fit, ivar)
        if result.calibration is None:
            return budget
        floor = result.calibration.floor_covariance(fit.snr, self._stars.leverage(fit.labels))
        return budget.calibrated(fit.covariance, floor)

    def sample_labels(
        self,
        flux: Any,
        ivar: Any,
        *,
        key: Any,
        prior: Any = "flat",
        bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
        method: str = "nuts",
        n_chains: int = LABEL_CHAINS.n_chains,
        n_draws: int = LABEL_CHAINS.n_draws,
        n_warmup: int = LABEL_CHAINS.n_warmup,
        dispersion: Any = None,
        progress: ProgressOption = None,
    ) -> "xr.DataTree":
        r"""Posterior of the labels of each star, by NUTS on its compressed spectrum.

        The likelihood is that of `test`, of which minus twice the logarithm is chi^2 (Casey et al. 2016, equation 3),
        or :math:`(\nu + n) \ln(1 + \chi^2 / \nu)` where the model has heavy tails. Once the model has a posterior of
        theta, that is integrated out as in `test`, unless `integrate_theta` is False: the likelihood is that of the
        corrected score, as wide as its sandwich covariance says (`labelling.theta_errors`).

        Parameters
        ----------
        flux, ivar
            Normalized in the same way as the training set, shape (star, pixel) or (pixel,).
        key
            Integer or JAX key. What is drawn for a star depends on it and on the row of the star only.
        prior
            ``"flat"``, improper; ``"gaussian"``, with the mean and covariance of the training labels; ``"population"``
            or ``"mixture"``, a mixture of normal distributions fitted to them; a mixture of your own, such as
            ``core.label_mixture.population(labels, errors=..., weights=...)``, narrower for the errors of the training
            labels, which the model does not know; or a NumPyro distribution of the labels in their units, event shape
            (label,).
        bounds
            Lowest and highest value by label name, such as ``{"TEFF": (4000, 5300), "LOGG": (0, None)}``, outside of
            which the prior is zero.
        method
            ``"nuts"`` or ``"hmc"``.
        n_chains, n_draws, n_warmup
            Chains of each star, draws kept of each chain, and draws before, which adapt the step size.
        dispersion
            Wavelengths of these spectra. If given they must be the model's.
        progress
            True for a bar on the standard error, or a function that is called with the number of stars finished.

        Returns
        -------
        tree
            Draws, summary, modes, diagnostics and `PosteriorStatus` of each star, **in label units**, as ArviZ takes
            them (`io.label_tree`). Draws, covariance and quantiles have the formal errors. Where the model is
            calibrated, ``summary/calibrated_covariance`` has the errors that `test` quotes, for these stars.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        ValueError
            For spectra that do not fit the model, and for an invalid prior, bounds, method or number of draws.

        """
        # NumPyro and xarray take a second to import.
        from bayes_cannon.io.label_tree import label_tree
        from bayes_cannon.posterior.labels.priors import LabelPrior
        from bayes_cannon.posterior.labels.sample import sample_star_labels

        trained = self._label_model()
        flux, ivar = self._spectra(flux, ivar, dispersion)
        label_prior = LabelPrior.of_labels(
            prior, bounds, label_names=self.label_names, scaling=self.scaling, training_labels=self.training_set_labels
        )
        settings = replace(LABEL_CHAINS, kernel=method, n_chains=n_chains, n_draws=n_draws, n_warmup=n_warmup)
        with reporter(progress, flux.shape[0], "star", "sample labels") as report:
            posterior = sample_star_labels(
                flux, ivar, trained=trained, prior=label_prior, key=key, settings=settings, progress=report
            )
        calibration = self._trained().calibration
        calibrated = None
        if calibration is not None:
            snr = signal_to_noise(np.asarray(ivar, float), trained.solved)
            calibrated = np.asarray(
                calibration.covariance(posterior.covariance, snr, self._stars.leverage(posterior.mean))
            )
        return label_tree(posterior, self.label_names, self.label_units, calibrated)

    # The posterior of theta, and calibration.

    def sample(
        self,
        *,
        key: Any = 0,
        method: str = "nuts",
        pixels: Any = None,
        n_chains: int = THETA_CHAINS.n_chains,
        n_warmup: int = THETA_CHAINS.n_warmup,
        n_draws: int = THETA_CHAINS.n_draws,
        theta_0: tuple[float, float] | None = None,
        s_scale: float | np.ndarray | None = None,
        store: str | os.PathLike[str] | None = None,
        keep_draws: bool | None = None,
        overwrite: bool = False,
        progress: ProgressOption = None,
    ) -> "xr.DataTree":
        r"""Draws from the posterior of theta and s of every pixel, with the priors

        .. math:: \theta_0 \sim \mathrm{Normal}(m, t), \qquad \theta_d \sim \mathrm{Laplace}(0, 2 / \Lambda)
                  \ (d \ge 1), \qquad s \sim \mathrm{HalfNormal}(h)

        Without regularization theta_d is flat. The model keeps the summary (`posterior`) until it is trained again.
        With correlated scatter s^2 is the whole variance of the scatter of a pixel, and each pixel is taken by itself;
        how close that is to all of them together is stated in `posterior.theta.sample`. With heavy tails the variances
        of a training star are divided by the weight tau that training gave it (``constant_data/precision``); the draws
        are conditioned on these weights, and are not wider for what is not known of them.

        Parameters
        ----------
        key
            Integer seed or JAX key.
        method
            ``"nuts"``; ``"hmc"``, with trajectories of fixed length; ``"psis"``, the fastest: importance sampling from
            the normal approximation of expectation propagation, with chains at the pixels where the Pareto k-hat of the
            weights says that it is not good enough. It takes the place of a Laplace approximation, which the kink of
            the Laplace prior at zero makes useless; ``"laplace"`` is another name for it.
        pixels
            Which pixels: indices or a mask of shape (pixel,); all by default.
        n_chains, n_warmup, n_draws
            Chains of each pixel, and draws of each chain that are forgotten and that are kept. With far fewer than 500
            draws R-hat is too noisy: converged pixels are sampled again and flagged by mistake.
            Pixels are sampled in blocks of 32, so that a few take as long as one block.
        theta_0
            Mean m and standard deviation t, of all pixels. By default the mean training flux at the pixel and ten
            times its standard deviation.
        s_scale
            h, one or one per pixel of the model. By default three times that standard deviation.
        store
            Zarr store to write to, block by block. If it exists, and holds a part of the same run, the run goes on
            from there, and ends with the draws that it would have had without a break. Needs ``bayes-cannon[zarr]``.
        keep_draws
            Whether the draws are kept, in memory or in the store; by default if they have less than 200 MB. The
            summary of every pixel always is.
        overwrite
            Replace a store that exists.
        progress
            True for a bar on the standard error, or a function that is called with the number of pixels finished.

        Returns
        -------
        tree
            An ``xarray.DataTree`` as ArviZ takes it (`io.posterior_tree`). That of a store is read when it is used.

        Warns
        -----
        SamplingWarning
            If pixels have no posterior, or one that cannot be trusted.
        StaleCalibrationWarning
            If the model was calibrated with other errors of labels: calibrate again.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        TypeError
            If it holds no training spectra, or the key is neither an integer nor a JAX key.
        ValueError
            For an unknown method, pixels that are not there, numbers of chains or draws that are too small, priors
            without a positive width, bounds on theta, and a store of another run.
        ImportError
            For a store where the extra ``bayes-cannon[zarr]`` is not installed.

        """
        # NumPyro and xarray take a second to import.
        from bayes_cannon.model.theta_sampling import ThetaSampling, sample_theta

        run = ThetaSampling.checked(
            self._settings.problem(self._stars), self._trained(), key=key, method=method, pixels=pixels,
            n_chains=n_chains, n_warmup=n_warmup, n_draws=n_draws, theta_0=theta_0, s_scale=s_scale,
        )  # fmt: skip
        tree, posterior = sample_theta(
            run, self._hashes(), store=store, keep_draws=keep_draws, overwrite=overwrite, progress=progress
        )
        self._keep_posterior(posterior)
        return tree

    def sample_store(
        self,
        store: "SpectraStore",
        *,
        stars: Any = None,
        preparation: "Preparation | None" = None,
        memory: float | str | None = None,
        scratch: str | os.PathLike[str] | None = None,
        out: str | os.PathLike[str] | None = None,
        executor: "Executor | None" = None,
        listen: "Callable[[Event], object] | None" = None,
        key: Any = 0,
        method: str = "nuts",
        pixels: Any = None,
        n_chains: int = THETA_CHAINS.n_chains,
        n_warmup: int = THETA_CHAINS.n_warmup,
        n_draws: int = THETA_CHAINS.n_draws,
        theta_0: tuple[float, float] | None = None,
        s_scale: float | np.ndarray | None = None,
        keep_draws: bool | None = None,
        overwrite: bool = False,
        progress: ProgressOption = None,
    ) -> "xr.DataTree":
        """Draws as `sample` makes them, of a model that `train_store` trained, from the store that it was trained on.

        A block of pixels is in memory at a time, beside the draws that are kept. The draws of a pixel come from the
        key and its number, and are those of `sample`, but for pixels whose chains run a second time: these are
        together with other pixels, which changes how they are rounded. The tree is the same without the spectra.

        Parameters
        ----------
        store, stars, preparation, memory, scratch
            As for `train_store`, and the same: with the ``scratch`` of the training its store of blocks is used again.
        out
            Zarr store to write to, as ``store`` of `sample`.
        executor, listen
            As for `train_store`. Processes need ``out``; rounding differs between one core and several, and chains make
            it large, so that their draws are others of the same posterior.
        key, method, pixels, n_chains, n_warmup, n_draws, theta_0, s_scale, keep_draws, overwrite, progress
            As for `sample`.

        Returns
        -------
        tree
            As of `sample`.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        ValueError
            If the spectra are not those that the model was trained on, if its scatter is not independent, and as
            `train_store` and `sample` do.

        """
        from bayes_cannon.model.store_sampling import sample_from_store  # NumPyro and xarray take a second to import.

        result = self._trained()
        work, _ = self._store_work(
            store, stars, preparation, memory, scratch, executor, op_method=result.op_method,
            dof_correction=result.dof_correction,
        )  # fmt: skip
        tree, posterior = sample_from_store(
            work, result, self._hashes(), self._provenance.get("training_set_sha256"), out=out, key=key, method=method,
            pixels=pixels, n_chains=n_chains, n_warmup=n_warmup, n_draws=n_draws, theta_0=theta_0, s_scale=s_scale,
            keep_draws=keep_draws, overwrite=overwrite, progress=progress, executor=executor, listen=listen,
        )  # fmt: skip
        work.tidy_blocks(keep=scratch is not None)
        self._keep_posterior(posterior)
        return tree

    def use_posterior(self, posterior: "xr.DataTree | str | os.PathLike[str]") -> None:
        """Take the posterior of theta from a tree that `sample` returned, or from a file or store that holds one.

        Warns
        -----
        StaleCalibrationWarning
            As in `sample`.

        Raises
        ------
        FileNotFoundError
            If nothing is at the path.
        NotTrainedError
            If the model is not trained.
        ValueError
            If it is no posterior, or that of another model, naming what differs.

        """
        from bayes_cannon.model.theta_sampling import read_theta_posterior

        n_pixels = len(self._trained().theta)
        self._keep_posterior(read_theta_posterior(posterior, self._hashes(), n_pixels))

    def _keep_posterior(self, posterior: ThetaPosterior) -> None:
        result = self._trained()
        before, self._result = result.posterior, replace(result, posterior=posterior)
        if self.integrate_theta and (before is None or not before.equal_for_labels(posterior)):
            self._forget_calibration("the posterior of theta is another one")

    def calibrate(
        self,
        *,
        n_folds: int = 5,
        seed: int = 0,
        groups: Any = None,
        reference_errors: StarLabel | None = None,
        key: Any = 0,
        progress: ProgressOption = None,
    ) -> Calibration:
        """Learn how large the errors of labels are, from training stars that are held out.

        The training stars are held out fold after fold and labelled by the others. Their residuals, compared with
        what their covariances state, gives a factor and a floor for each label and the tails
        (`calibration.fit.calibrate`). From then on the covariance of every fit is the calibrated one, until the
        model is trained again, or the posterior of theta is another one; the labels themselves stay as they are. Where
        the model integrates theta out, so do those of the folds, with the posterior of their own theta by importance
        sampling.

        Parameters
        ----------
        n_folds, seed
            As in `validate.folds`. So many models are trained. Each has fewer stars than the model itself and errs
            more, for which the leverage of the stars that trained it accounts.
        groups
            Rows of one group, such as several visits of one star, are held out together, shape (star,). By default
            those whose labels are all the same.
        reference_errors
            Errors of the training labels, in label units, shape (star, label); NaN where they are not known. What is
            given here is no part of the calibrated errors; errors of the reference that are not given are.
        key
            JAX key or an integer seed of the chains.
        progress
            True for a bar on the standard error, or a function that is called with the number of folds finished.

        Returns
        -------
        calibration
            Also kept as ``model.calibration``.

        Warns
        -----
        CalibrationWarning
            If the chains have not mixed.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        TypeError
            If it holds no training spectra.
        ValueError
            If there are too few stars, groups of another shape, or reference errors of another shape than the training
            labels or negative ones.

        """
        result = self._trained()
        self._problem()  # Its checks.

        def train_fold(stars: np.ndarray) -> CannonModel:
            """The model of some of the training stars, trained as this one."""
            model = CannonModel._of(self._stars.of_stars(stars), self._settings)
            model.train(op_method=result.op_method, dof_correction=result.dof_correction)
            if result.posterior is not None and self.integrate_theta:
                # Its errors are to be those of this model.
                pixels = np.isfinite(result.posterior.mean).all(axis=1)
                model.sample(method="psis", keep_draws=False, pixels=pixels)
            return model

        with reporter(progress, n_folds, "fold", "calibrate") as report:
            calibration = learn_calibration(
                self._stars, train_fold, n_folds=n_folds, seed=seed, groups=groups, reference_errors=reference_errors,
                key=key, progress=report,
            )  # fmt: skip
        self._result = replace(result, calibration=calibration)
        return calibration

    def _forget_calibration(self, why: str) -> None:
        if self._result is not None and self._result.calibration is not None:
            self._result = replace(self._result, calibration=None)
            warn_user(
                f"the calibration is forgotten, as {why} and with it the errors of labels: call calibrate() again",
                StaleCalibrationWarning,
            )

    # Files.

    def write(
        self,
        path: str | os.PathLike[str],
        include_training_set_spectra: bool = False,
        overwrite: bool = False,
        protocol: int | None = None,
    ) -> None:
        """Write the model to one netCDF (HDF5) file.

        Parameters
        ----------
        path
            File to write.
        include_training_set_spectra
            Keep the training spectra too, so that the model can be trained again after reading.
        overwrite
            Replace a file that exists.
        protocol
            Accepted for old scripts, without effect: nothing is pickled.

        Raises
        ------
        FileExistsError
            If the file exists and ``overwrite`` is False.

        """
        from bayes_cannon.model.files import StoredModel, write_model  # HDF5 and xarray take half a second to import.

        if self._result is not None:
            self._trained()  # Warns if the settings that are written are not those that it was trained with.
        stars = (
            self._stars
            if flag(include_training_set_spectra, "include_training_set_spectra")
            else self._stars.without_spectra()
        )
        self._remember_spectra()
        write_model(path, StoredModel(stars, self._settings, self._result, self._provenance), overwrite=overwrite)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "CannonModel":
        """Read a model that `write` made; a restricted model comes back as one.

        Those of the original package are read by `bayes_cannon.read_original_model`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is no model file, is damaged, or was written by a newer version.

        """
        from bayes_cannon.model.files import read_model  # HDF5 and xarray take half a second to import.

        stored = read_model(path)
        kind = RestrictedCannonModel if cls is CannonModel and stored.settings.theta_bounds else cls
        return kind._of(stored.stars, stored.settings, stored.result, stored.provenance)

    def _remember_spectra(self) -> None:
        """Keep the hash of the training spectra, which outlives them."""
        from bayes_cannon.io.model_file import training_set_hash  # HDF5 and xarray take half a second to import.

        stars = self._stars
        if stars.flux is not None and stars.ivar is not None:
            self._provenance["training_set_sha256"] = training_set_hash(stars.labels, stars.flux, stars.ivar)

    def _hashes(self) -> dict[str, str]:
        """Short hashes that tell this model from others."""
        from bayes_cannon.model.theta_sampling import hashes_of

        self._remember_spectra()
        return hashes_of(self._trained(), self._settings, self._provenance.get("training_set_sha256"))

    # What the model holds.

    @property
    def vectorizer(self) -> BaseVectorizer:
        """The terms v."""
        return self._stars.vectorizer

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self._stars.label_names

    @property
    def label_units(self) -> dict[str, str]:
        """Unit of each label, as text; empty where none is known."""
        return dict(self._stars.label_units)

    @property
    def training_set_labels(self) -> np.ndarray:
        """Labels of the training stars in their units, shape (star, label)."""
        return self._stars.labels

    @property
    def training_set_flux(self) -> np.ndarray | None:
        """Normalized flux of the training stars, shape (star, pixel), or None."""
        return self._stars.flux

    @property
    def training_set_ivar(self) -> np.ndarray | None:
        """Inverse variance of the flux, shape (star, pixel), or None."""
        return self._stars.ivar

    @property
    def scaling(self) -> LabelScaling:
        """The map between labels and scaled labels."""
        return self._stars.scaling

    @property
    def _scales(self) -> np.ndarray:
        """What old scripts divide labels by, in label units, shape (label,)."""
        return self.scaling.factor * self.scaling.scale

    @property
    def _fiducials(self) -> np.ndarray:
        """What old scripts subtract from labels, in label units, shape (label,)."""
        return self.scaling.fiducial

    @property
    def design_matrix(self) -> np.ndarray:
        """Terms of the training stars, shape (star, term)."""
        return self._stars.terms.design

    @property
    def n_pixels(self) -> int | None:
        """Number of pixels, None where neither spectra nor a dispersion were given, nor theta is there."""
        of_stars = self._stars.n_pixels
        return len(self._result.theta) if of_stars is None and self._result is not None else of_stars

    @property
    def dispersion(self) -> np.ndarray | None:
        """Wavelength of each pixel, shape (pixel,), or None."""
        return self._stars.dispersion

    @dispersion.setter
    def dispersion(self, dispersion: Any) -> None:
        if dispersion is not None and self.n_pixels is not None and np.size(dispersion) != self.n_pixels:
            raise ValueError(f"dispersion has {np.size(dispersion)} values, and the model {self.n_pixels} pixels")
        self._stars = self._stars.with_dispersion(dispersion)

    @property
    def dispersion_unit(self) -> str | None:
        """Unit of the wavelengths as text, None where it is not known."""
        return self._stars.dispersion_unit

    @property
    def flux_unit(self) -> str | None:
        """Unit of the flux as text, empty for one without dimension, None where it is not known."""
        return self._stars.flux_unit

    @property
    def regularization(self) -> float | np.ndarray | None:
        """Lambda: None, a number, or one per pixel. Train again after a change."""
        return self._settings.regularization

    @regularization.setter
    def regularization(self, regularization: Any) -> None:
        self._settings = replace(self._settings, regularization=check_regularization(regularization, self.n_pixels))

    @property
    def censors(self) -> Censors:
        """Censoring masks by label name; True means censored. It may be changed in place; then train again."""
        return self._settings.censors  # type: ignore[return-value]

    @censors.setter
    def censors(self, censors: Mapping[str, Any] | None) -> None:
        if censors is not None and not isinstance(censors, Mapping):
            raise TypeError(f"censors must map label names to masks, got {type(censors).__name__}")
        checked = Censors(self.label_names, self.n_pixels or 0, censors)
        self._settings = replace(self._settings, censors=checked)

    @property
    def scatter(self) -> Scatter | str | None:
        """How the scatter is correlated between pixels; None is independent. Train again after a change.

        ``"auto"`` lets the next training choose, and becomes what it chose.
        """
        return self._settings.scatter

    @scatter.setter
    def scatter(self, scatter: Scatter | str | None) -> None:
        if not (scatter is None or isinstance(scatter, Scatter) or (isinstance(scatter, str) and scatter == AUTO)):
            raise TypeError(f'scatter must be None, "auto", scatter.LowRank, Full or Given, got {scatter!r}')
        self._settings = replace(self._settings, scatter=scatter)

    @property
    def theta_bounds(self) -> dict[str, Bound]:
        """Bounds on the coefficients by the text of the term (`RestrictedCannonModel`); empty where there are none."""
        return dict(self._settings.theta_bounds)

    @theta_bounds.setter
    def theta_bounds(self, theta_bounds: Mapping[str, Sequence[float | None]] | None) -> None:
        checked = checked_theta_bounds(theta_bounds, self.vectorizer)
        self._settings = replace(self._settings, theta_bounds=checked)

    @property
    def integrate_theta(self) -> bool:
        """Whether labels are inferred with theta integrated out (`labelling.theta_errors`).

        True at first. Where a change alters the errors of labels, the model forgets a calibration of the former ones,
        with a `StaleCalibrationWarning`.
        """
        return self._settings.integrate_theta

    @integrate_theta.setter
    def integrate_theta(self, wanted: bool) -> None:
        wanted = flag(wanted, "integrate_theta")
        changed = wanted != self.integrate_theta
        self._settings = replace(self._settings, integrate_theta=wanted)
        if changed and self.posterior is not None:
            self._forget_calibration("integrate_theta has changed")

    # What it has learned.

    @property
    def is_trained(self) -> bool:
        """Whether theta and s2 are there."""
        return self._result is not None

    @property
    def theta(self) -> np.ndarray | None:
        """Coefficients, shape (pixel, term); None before training, NaN where a pixel has no solution."""
        return None if self._result is None else self._result.theta

    @property
    def s2(self) -> np.ndarray | None:
        """Variance of the intrinsic scatter, shape (pixel,); None before training, infinite where a pixel has none."""
        return None if self._result is None else self._result.s2

    @property
    def certificates(self) -> dict[str, np.ndarray] | None:
        """Arrays over pixels of the last training, as in `training.problem.PixelSolution`.

        They are objective, duality_gap, profile_gradient, iterations, status, n_minima and margin.
        """
        if self._result is None or self._result.certificates is None:
            return None
        return {name: array for name, array in vars(self._result.certificates).items() if array is not None}

    @property
    def correlation(self) -> LearnedScatter | None:
        """What was learned of the correlated scatter; None where it is independent."""
        learned = None if self._result is None else self._result.scatter
        return learned if learned is not None and learned.is_correlated else None

    @property
    def factors(self) -> np.ndarray | None:
        """Factors U of the scatter in flux, shape (pixel, factor), the strongest first; None where it has none.

        Of a full covariance they are its leading directions.
        """
        return None if self._result is None else self._result.scatter.factors

    @property
    def nu(self) -> float | None:
        """Degrees of freedom of a spectrum's Student-t distribution, infinite for a normal one; None if independent."""
        return None if self.correlation is None else self.correlation.nu

    @property
    def posterior(self) -> ThetaPosterior | None:
        """Summary of the last `sample`, of all pixels; None before, and after training again.

        Where none was sampled it is NaN and its status ``NO_INFORMATION``. Of a model that was read from a file it
        has what labels need: mean and covariance of theta, the mean of s^2, and the status; the rest is NaN.
        """
        return None if self._result is None else self._result.posterior

    @property
    def calibration(self) -> Calibration | None:
        """What turns formal covariances of labels into calibrated ones; None before `calibrate`."""
        return None if self._result is None else self._result.calibration

    @property
    def provenance(self) -> dict[str, str]:
        """Where the model comes from, text by name; it may be added to, and is kept in the model file."""
        return self._provenance

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same stars, settings and results; where they come from does not matter."""
        if not isinstance(other, CannonModel):
            return NotImplemented
        parts = ("_stars", "_settings", "_result")
        return type(self) is type(other) and all(equal(getattr(self, part), getattr(other, part)) for part in parts)

    __hash__ = None  # type: ignore[assignment]  # It can be changed.

    def __str__(self) -> str:
        pixels = "an unknown number of" if self.n_pixels is None else self.n_pixels
        return (
            f"<{type(self).__name__} of {len(self.label_names)} labels "
            f"with a training set of {len(self._stars.labels)} stars each with {pixels} pixels>"
        )

    def __repr__(self) -> str:
        return f"{str(self)[:-1]}, {'trained' if self.is_trained else 'not trained'}>"

    def _spectra(self, flux: Any, ivar: Any, dispersion: Any = None) -> tuple[Any, Any]:
        """Spectra of stars in any container as the model takes them, and a check of their wavelengths."""
        check_same_dispersion(dispersion, self.dispersion, self.dispersion_unit)
        return spectra_rows(flux, ivar, self._stars.flux_unit)

    def _starts(self, initial_labels: Any) -> Any:
        """Further starting points: by name where they have names; arrays of any number of starts stay."""
        plain = initial_labels is None or isinstance(initial_labels, list | tuple) or is_plain(initial_labels)
        return initial_labels if plain else self._stars.rows(initial_labels, "initial_labels")

    def _store_work(self, *given: Any, **options: Any) -> "tuple[StoreTraining, TrainingSet]":
        """The training from a store, and the training set without its spectra."""
        from bayes_cannon.model.store_problem import store_training  # HDF5 and xarray take half a second to import.

        return store_training(self._stars, self._settings, self._result, *given, **options)

    def _problem(self) -> PixelProblem:
        return self._settings.problem(self._stars)

    def _trained(self) -> TrainingResult:
        """What was learned; warns where the settings have changed since."""
        if self._result is None:
            raise NotTrainedError("the model is not trained: call train() first")
        changed = self._result.changed_settings(self._settings)
        if changed:
            warn_user(
                f"{' and '.join(changed)} changed after the model was trained, and what is used is theta as it was "
                "trained: call train() again",
                StaleResultWarning,
            )
        return self._result

    def _label_model(self) -> TrainedModel:
        """What the test step needs, with theta integrated out where its posterior is known and that is wanted."""
        result = self._trained()
        return result.integrated if self.integrate_theta else result.plug_in


class RestrictedCannonModel(CannonModel):
    """A `CannonModel` whose coefficients have bounds, so that labels act only in the sense that physics allows.

    Parameters
    ----------
    theta_bounds
        Lower and upper bound by the text of a term, as `vectorizer.human_readable_label_vector` shows it, None for no
        bound: ``{"FE_H": (None, 0), "TEFF^2": (-0.1, 0.1)}``. They hold at every pixel, in every solver exactly.
        Coefficients multiply scaled labels.
    **kwargs
        As for `CannonModel`.

    Raises
    ------
    ValueError
        For an unknown term, bounds that are no pair, NaN, or out of order.

    Examples
    --------
    >>> restricted = tc.RestrictedCannonModel(
    ...     model.training_set_labels, None, None, model.vectorizer, theta_bounds={"FE_H": (None, 0)}
    ... )
    >>> restricted.theta_bounds
    {'FE_H': (None, 0.0)}

    """

    def __init__(self, *args: Any, theta_bounds: Mapping[str, Sequence[float | None]] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.theta_bounds = theta_bounds


def load_model(path: str | os.PathLike[str]) -> CannonModel:
    """As `CannonModel.read`, under the original package's older name."""
    return CannonModel.read(path)
