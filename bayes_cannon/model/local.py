"""`LocalCannonModel`: models of overlapping regions of label space, whose posteriors of labels are mixed."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.arguments import listed, shown, texts, whole_number
from bayes_cannon.core.checks import CORRELATION_WARNING, check_regularization, check_same_dispersion
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.core.records import dims, equal, one_of
from bayes_cannon.core.typing import PerStar, Record, StarLabel
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.labelling.batches import pairs_of_spectra, spectra_rows
from bayes_cannon.labelling.fit import fit_labels
from bayes_cannon.model.cannon import NotTrainedError
from bayes_cannon.model.local_parts import LocalResult, Partition
from bayes_cannon.model.local_training import (
    HeldOut,
    Shape,
    averaged,
    held_out_labels,
    possible_partitions,
    train_partition,
    trainable,
)
from bayes_cannon.model.posterior_fit import PosteriorFit, posterior_fit, with_rows
from bayes_cannon.model.record import ModelFlux, star_records
from bayes_cannon.model.settings import Settings, checked_noise
from bayes_cannon.model.stars import TrainingSet
from bayes_cannon.posterior.labels.label_posterior import batch_size, label_posterior
from bayes_cannon.scatter.base import FAMILIES, Scatter

if TYPE_CHECKING:
    from bayes_cannon.execution.events import Event
    from bayes_cannon.execution.shards import Executor
    from bayes_cannon.model.label_plan import LabelPlan
    from bayes_cannon.model.store_labelling import Labelled

AUTO = "auto"
N_FOLDS = 5
"""Parts of the training stars that are held out in turn to weight the partitions."""


@dataclass(frozen=True, eq=False)
class LocalSettings:
    """What a user has set.

    Attributes
    ----------
    partitions
        Number of regions and order of each, shape (partition, 2); None to have them chosen.
    scatter
        Family of the scatter; None is independent scatter.
    regularization
        Lambda: None or a number.
    label_errors
        Errors of the training labels, shape (star, label), or None.
    seed
        Of the partitions and folds.

    """

    partitions: np.ndarray | None = field(default=None, metadata=dims("asked", "pair", about="regions and order"))
    scatter: Scatter | None = field(default=None, metadata=one_of(lambda: FAMILIES))
    regularization: float | None = None
    label_errors: np.ndarray | None = field(default=None, metadata=dims("star", "label", about="errors of labels"))
    seed: int = 0


class LocalCannonModel:
    r"""Models of overlapping regions of label space, with the population of the training labels as a prior.

    One polynomial does not describe giants and dwarfs, or hot and cool stars, alike. A mixture of normal distributions,
    fitted to the training labels, makes K regions; a star belongs to region r by the share p(r | l). Each has a
    model of its own and a population p(l | r). The posterior of the labels of a new star is

    .. math:: p(l \mid y) \propto \sum_r p(r)\, p(l \mid r)\, p(y \mid l, r)

    whose mean and covariance are computed by importance sampling on the compressed spectrum (`posterior.labels.
    moments`). Several partitions are averaged with the weights that maximize the log score of held-out labels.

    The training set is the population: labels are drawn towards where it has many stars. That makes errors smaller
    where the stars to be labelled are chosen as the training stars were; of other stars, such as of a group that the
    training set hardly has, it biases them. `PosteriorFit.likelihood_labels` knows nothing of it.

    The orders of the polynomials are those of the partitions. A label that nobody asks for, but spectra depend on, is
    integrated out where it is one of the labels and left out of what comes back (`CannonModel.fit_labels`). It has to
    be known of the training stars, and makes the regions those of one label more.

    Parameters
    ----------
    training_set_labels, training_set_flux, training_set_ivar
        As for `CannonModel`.
    label_names
        Names of the labels.
    partitions
        Pairs of the number of regions and the order of the polynomials, such as ``[(3, 2), (5, 2), (3, 3)]``, averaged
        with equal weights. ``"auto"``: several are tried, as many regions as the stars allow, and weighted by the log
        score of held-out training labels, which trains six times.
    dispersion, scale_factor, label_units, dispersion_unit, rho_warning
        As for `CannonModel`.
    scatter
        ``scatter.Full(heavy_tails=True)``, ``scatter.LowRank(rank)``, ``scatter.Given(covariance)`` or None. With
        ``Full`` and no regularization theta is integrated out in closed form, and stars count by their shares; with
        all others theta is known, and stars count in every region in which they have a share of a tenth or more.
    regularization
        Lambda: None or a number.
    label_errors
        Errors of the training labels, in their units, shape (star, label), of which the population is deconvolved; NaN
        where they are not known.
    seed
        Of the partitions and folds.
    covariance
        Of the noise of each training spectrum, as for `CannonModel`.

    Raises
    ------
    ValueError
        As `CannonModel`, and for partitions that are no pairs of positive numbers.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.uniform([4000, 1, -1], [5500, 3.5, 0.4], (300, 3))
    >>> x = (labels - [4750, 2.25, -0.3]) / [1500, 2.5, 1.4]
    >>> flux = 1 + x @ rng.normal(0, 0.05, (3, 60)) + 0.01 * rng.normal(size=(300, 60))
    >>> names = ("TEFF", "LOGG", "FE_H")
    >>> local = tc.LocalCannonModel(labels, flux, np.full(flux.shape, 1e4), names, partitions=[(1, 1)])
    >>> local.train()
    >>> inferred, covariance, records = local.test(flux[:5], np.full((5, 60), 1e4))
    >>> inferred.shape, covariance.shape
    ((5, 3), (5, 3, 3))

    """

    def __init__(
        self,
        training_set_labels: Any,
        training_set_flux: Any,
        training_set_ivar: Any,
        label_names: Sequence[str],
        *,
        partitions: Sequence[Shape] | str = AUTO,
        dispersion: Any = None,
        scatter: Scatter | None = None,
        regularization: float | None = None,
        scale_factor: float = 1.0,
        label_units: Mapping[str, str] | None = None,
        label_errors: Any = None,
        dispersion_unit: str | None = None,
        rho_warning: float = CORRELATION_WARNING,
        seed: int = 0,
        covariance: Any = None,
    ):
        names = texts(label_names, "label_names")
        self._stars = TrainingSet.from_user(
            training_set_labels, training_set_flux, training_set_ivar, PolynomialVectorizer(names, 1),
            dispersion=dispersion, scale_factor=scale_factor, label_units=label_units,
            dispersion_unit=dispersion_unit, rho_warning=rho_warning, covariance=covariance,
        )  # fmt: skip
        if scatter is not None and not isinstance(scatter, Scatter):
            raise TypeError(f"scatter must be None, scatter.LowRank, Full or Given, got {scatter!r}")
        lam = check_regularization(regularization, self._stars.n_pixels)
        if lam is not None and np.ndim(lam):
            raise ValueError("regularization of local models must be None or one number, not one a pixel")
        self._settings = LocalSettings(
            _checked_partitions(partitions), scatter, None if lam is None else float(lam),
            _checked_errors(label_errors, self._stars.labels), whole_number(seed, "seed", 0),
        )  # fmt: skip
        self._result: LocalResult | None = None
        self._held_out: HeldOut | None = None
        self._provenance: dict[str, str] = {}

    @classmethod
    def _of(
        cls, stars: TrainingSet, settings: LocalSettings, result: LocalResult | None,
        provenance: Mapping[str, str] | None = None,
    ) -> "LocalCannonModel":  # fmt: skip
        model = cls.__new__(cls)
        model._stars, model._settings, model._result, model._held_out = stars, settings, result, None
        model._provenance = dict(provenance or {})
        return model

    # Training.

    def train(self, *, progress: ProgressOption = None) -> None:
        """Learn the regions, their models and, where partitions are chosen, their weights.

        Parameters
        ----------
        progress
            True for a bar on the standard error, or a function that is called with the number of partitions trained.

        Raises
        ------
        TypeError
            If the model holds no training spectra.
        ValueError
            If a region has fewer stars than its model needs.

        """
        asked = self._settings.partitions
        if asked is None:
            shapes = possible_partitions(len(self._stars.labels), self.label_names)
            shapes = trainable(self._stars, shapes, self._settings.seed, self._settings.label_errors, N_FOLDS)
        else:
            shapes = [(int(n), int(order)) for n, order in asked]
        chosen = asked is None and len(shapes) > 1
        total = len(shapes) * (N_FOLDS + 1 if chosen else 1)
        self._held_out = None
        with reporter(progress, total, "partition", "train local models") as report:
            weights = np.full(len(shapes), 1 / len(shapes))
            if chosen:
                self._held_out = self._cross_validated(shapes, N_FOLDS, None, report)
                weights = self._held_out.stacking_weights(self._stars.labels)
                kept = weights > 0
                shapes = [shape for shape, keep in zip(shapes, kept, strict=True) if keep]
                self._held_out = replace(
                    self._held_out, labels=self._held_out.labels[kept], covariance=self._held_out.covariance[kept]
                )
                weights = weights[kept]
            self._result = self._trained_on(self._stars, self._settings.label_errors, shapes, weights, report)

    def _trained_on(
        self, stars: TrainingSet, label_errors: np.ndarray | None, shapes: Sequence[Shape],
        weights: np.ndarray | None = None, report: Any = None,
    ) -> LocalResult:  # fmt: skip
        settings = Settings(regularization=self._settings.regularization, scatter=self._settings.scatter)
        partitions = []
        for shape in shapes:
            partitions.append(train_partition(stars, settings, shape, self._settings.seed, label_errors))
            if report is not None:
                report(1)
        every = np.full(len(shapes), 1 / len(shapes)) if weights is None else weights
        return LocalResult(stars, tuple(partitions), every)

    def _cross_validated(self, shapes: Sequence[Shape], n_folds: int, groups: Any, report: Any) -> HeldOut:
        errors = self._settings.label_errors
        Settings().problem(self._stars)  # Its check for spectra.

        def train_fold(stars: TrainingSet, rows: np.ndarray) -> LocalResult:
            return self._trained_on(stars, None if errors is None else errors[rows], shapes, None, report)

        return held_out_labels(self._stars, train_fold, n_folds=n_folds, seed=self._settings.seed, groups=groups)

    def calibrate(
        self, *, n_folds: int = N_FOLDS, groups: Any = None, reference_errors: StarLabel | None = None, key: Any = 0,
        progress: ProgressOption = None,
    ) -> Calibration:  # fmt: skip
        """Learn how large the errors of the labels are, from training stars that are held out.

        The parameters and errors are those of `CannonModel.calibrate`; held-out labels of `train` are used again.
        """
        from bayes_cannon.calibration.fit import calibrate  # NumPyro takes half a second to import.

        result = self._trained()
        shapes = [(len(one.regions), int(one.vectorizer.exponents.sum(axis=1).max())) for one in result.partitions]
        held_out = self._held_out
        if held_out is None or groups is not None or n_folds != N_FOLDS:
            with reporter(progress, n_folds * len(shapes), "partition", "hold out stars of local models") as report:
                held_out = self._cross_validated(shapes, n_folds, groups, report)
        labels, covariance = held_out.mixed(result.weights)
        errors = _checked_errors(reference_errors, self._stars.labels, "reference_errors")
        calibration = calibrate(
            labels - self._stars.labels, covariance, held_out.snr, leverage=held_out.leverage, reference_errors=errors,
            key=key,
        )  # fmt: skip
        self._result, self._held_out = result.with_calibration(calibration), held_out
        return calibration

    # Labels.

    def test(
        self, flux: Any, ivar: Any, *, dispersion: Any = None, covariance: Any = None, progress: ProgressOption = None
    ) -> tuple[np.ndarray, np.ndarray, list[Record]]:
        """Labels of spectra as posterior means.

        Parameters
        ----------
        flux, ivar, dispersion, covariance, progress
            As for `CannonModel.test`.

        Returns
        -------
        labels, covariance, metadata
            As `CannonModel.test` returns them; each record has ``likelihood_labels``, ``log_evidence`` and
            ``region_weights`` besides.

        """
        flux, ivar = self._spectra(flux, ivar, dispersion)
        fit = self.fit_labels(flux, ivar, covariance=covariance, progress=progress)
        result = self._trained()
        first = result.models[0][0].trained
        model = ModelFlux(first.terms.exponents, first.scaling, first.theta)
        records = star_records(fit, self.label_names, model, flux, ivar, None)
        for n, record in enumerate(records):
            record |= {
                "likelihood_labels": fit.likelihood_labels[n], "log_evidence": float(fit.log_evidence[n]),
                "region_weights": fit.region_weights[n],
            }  # fmt: skip
        return fit.labels, fit.covariance, records

    def fit_labels(
        self, flux: Any, ivar: Any, *, dispersion: Any = None, covariance: Any = None, progress: ProgressOption = None
    ) -> PosteriorFit:  # fmt: skip
        """As `test`, with the results as arrays over stars."""
        result = self._trained()
        flux, ivar = self._spectra(flux, ivar, dispersion)
        first = result.models[0][0].trained
        noise = checked_noise(covariance, ivar, first.scatter)
        with reporter(progress, len(flux) * len(result.models), "star", "label with local models") as report:
            parts = [label_posterior(models, flux, ivar, covariance=noise, progress=report) for models in result.models]
        labels, covariance = averaged(parts, result.weights)
        main, size = int(np.argmax(result.weights)), batch_size(len(flux))
        fits = []
        for number, region in enumerate(result.models[main]):
            rows = np.flatnonzero(parts[main].region == number)
            if len(rows):
                own = None if noise is None else noise[rows]
                one = fit_labels(region.trained, flux[rows], ivar[rows], batch_size=size, covariance=own)
                fits.append((rows, one))
        published = with_rows(fits, len(labels)) if fits else fit_labels(first, flux, ivar)
        weights = np.concatenate([w * part.weights for w, part in zip(result.weights, parts, strict=True)], axis=1)
        return posterior_fit(
            published, labels, covariance, log_evidence=parts[main].log_evidence,
            efficiency=np.average([part.efficiency for part in parts], axis=0, weights=result.weights),
            region_weights=weights, calibration=result.calibration, stars=self._stars,
        )  # fmt: skip

    def fit_label_stream(self, batches: Iterable[tuple[Any, Any]]) -> Iterator[PosteriorFit]:
        """As `fit_labels`, for spectra that arrive in batches; memory does not grow with their number."""
        self._trained()
        return (self.fit_labels(flux, ivar) for flux, ivar in pairs_of_spectra(batches))

    def label_store(
        self, store: str | os.PathLike[str], out: str | os.PathLike[str], *, executor: "Executor | None" = None,
        error_budget: bool = False, progress: ProgressOption = None, listen: "Callable[[Event], object] | None" = None,
    ) -> "Labelled":  # fmt: skip
        """Label all spectra of a store, shard by shard, as `CannonModel.label_store` does.

        Local models have no error budget: to ask for one is a ValueError.
        """
        from bayes_cannon.model.store_labelling import label_store  # HDF5 and xarray take half a second to import.

        return label_store(
            self, store, out, executor=executor, error_budget=error_budget, progress=progress, listen=listen
        )  # fmt: skip

    def label_plan(
        self, store: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, *, reads_ahead: bool = True
    ) -> "LabelPlan":
        """What it takes to label a store of spectra, as `CannonModel.label_plan` says it."""
        from bayes_cannon.model.store_labelling import plan_labels  # HDF5 and xarray take half a second to import.

        return plan_labels(self, store, out, reads_ahead=reads_ahead)

    def label_frame(self, frame: Any, *, flux: str = "flux", ivar: str = "ivar") -> Any:
        """Labels of the spectra in the rows of a data frame, as `CannonModel.label_frame` gives them."""
        from bayes_cannon.model.frames import label_frame  # Astropy's tables take half a second to import.

        return label_frame(self, frame, flux, ivar)

    def _spectra(self, flux: Any, ivar: Any, dispersion: Any = None) -> tuple[Any, Any]:
        check_same_dispersion(dispersion, self.dispersion, self.dispersion_unit)
        return spectra_rows(flux, ivar, self._stars.flux_unit)

    def _trained(self) -> LocalResult:
        if self._result is None:
            raise NotTrainedError("the model is not trained: call train() first")
        return self._result

    # Files.

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model as one netCDF-4 file, without its training spectra; `load_model` reads it.

        Raises
        ------
        FileExistsError
            If the file exists and ``overwrite`` is False.

        """
        from bayes_cannon.model.local_files import StoredLocalModel, write_local_model

        stored = StoredLocalModel(self._stars.without_spectra(), self._settings, self._trained(), self._provenance)
        write_local_model(path, stored, overwrite=overwrite)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "LocalCannonModel":
        """Read a model that `write` made. Errors are those of `CannonModel.read`."""
        from bayes_cannon.model.local_files import read_local_model

        stored = read_local_model(path)
        return cls._of(stored.stars, stored.settings, stored.result, stored.provenance)

    # What the model holds.

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
    def dispersion(self) -> np.ndarray | None:
        """Wavelength of each pixel, shape (pixel,), or None."""
        return self._stars.dispersion

    @property
    def dispersion_unit(self) -> str | None:
        """Unit of the wavelengths as text, None where it is not known."""
        return self._stars.dispersion_unit

    @property
    def n_pixels(self) -> int | None:
        """Number of pixels."""
        return self._stars.n_pixels if self._result is None else len(self._result.partitions[0].regions[0].s2)

    @property
    def scatter(self) -> Scatter | None:
        """Family of the scatter; None is independent."""
        return self._settings.scatter

    @property
    def is_trained(self) -> bool:
        """Whether the regions have models."""
        return self._result is not None

    @property
    def partitions(self) -> list[Shape]:
        """Number of regions and order of each partition that was trained."""
        found = self._trained().partitions
        return [(len(one.regions), int(one.vectorizer.exponents.sum(axis=1).max())) for one in found]

    @property
    def partition_weights(self) -> np.ndarray:
        """Weight of each partition, shape (partition,)."""
        return self._trained().weights

    @property
    def main_partition(self) -> Partition:
        """The partition of largest weight: the terms of its models, and its regions."""
        result = self._trained()
        return result.partitions[int(np.argmax(result.weights))]

    @property
    def calibration(self) -> Calibration | None:
        """What turns formal covariances of labels into calibrated ones; None before `calibrate`."""
        return None if self._result is None else self._result.calibration

    @property
    def provenance(self) -> dict[str, str]:
        """Where the model comes from, text by name; it may be added to, and is kept in the model file."""
        return self._provenance

    def leverage(self, labels: Any) -> PerStar:
        """How far labels lie from those of the training stars, whose mean is one, by a linear model, shape (star,)."""
        return self._stars.leverage(labels)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same labels, settings and results."""
        if not isinstance(other, LocalCannonModel):
            return NotImplemented
        return all(equal(getattr(self, part), getattr(other, part)) for part in ("_settings", "_result"))

    __hash__ = None  # type: ignore[assignment]  # It can be changed.

    def __repr__(self) -> str:
        state = "not trained"
        if self._result is not None:
            regions = ", ".join(f"{n} of order {order}" for n, order in self.partitions)
            state = f"trained: regions {regions}"
        return f"<LocalCannonModel of {len(self.label_names)} labels, {len(self._stars.labels)} stars, {state}>"


def _checked_partitions(partitions: Any) -> np.ndarray | None:
    if isinstance(partitions, str) and partitions == AUTO:
        return None
    pairs = [listed(pair) for pair in listed(partitions) or []]
    if not pairs or any(pair is None or len(pair) != 2 for pair in pairs):
        raise ValueError(
            'partitions must be "auto" or pairs of the number of regions and the order of the polynomials, such as '
            f"[(3, 2), (5, 2)]; got {shown(partitions)}"
        )
    what = ("the number of regions", "the order")
    return np.array(
        [[whole_number(one, name, 1) for one, name in zip(pair or (), what, strict=True)] for pair in pairs]
    )


def _checked_errors(errors: Any, labels: np.ndarray, what: str = "label_errors") -> np.ndarray | None:
    if errors is None:
        return None
    values = real_numbers(errors, what)
    if values.shape != labels.shape or (values < 0).any():
        raise ValueError(f"{what} must have the shape of the training labels, {labels.shape}, and not be negative")
    return np.asarray(values, float)
