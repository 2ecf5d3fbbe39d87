"""A model of the original package, thecannon 0.2.x and 0.9.x, as a `CannonModel`; `io.original` reads its file."""

import math
import os
from collections.abc import Sequence

import numpy as np

from bayes_cannon.core.censoring import Censors, design_matrix_mask
from bayes_cannon.core.checks import check_dispersion, check_regularization, check_spectra
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.core.warnings import BayesCannonWarning, warn_user
from bayes_cannon.io.damage import reading
from bayes_cannon.io.original import REMEDY, WHAT, OriginalModel, read_original
from bayes_cannon.model.cannon import CannonModel, RestrictedCannonModel
from bayes_cannon.model.result import TrainingResult
from bayes_cannon.model.settings import Settings, checked_theta_bounds
from bayes_cannon.model.stars import TrainingSet

HIGHEST_DEGREE = 100
"""Of a term."""


class OriginalModelWarning(BayesCannonWarning):
    """A model of the original package lacks something, or has what one should know of."""


def read_original_model(path: str | os.PathLike[str]) -> CannonModel:
    """Read a model that the original package, thecannon 0.2.x or 0.9.x, has written. It is not unpickled.

    Flux and labels are those of the original package: theta, s2 and the scaling of the labels are taken over, with the
    columns of theta in the order of the terms here. Where s2 is not finite the pixel has no solution, and theta is NaN.
    Censoring masks are inverted, so that True means censored. The model was not trained here: ``certificates`` is
    None. Where the file holds the training spectra it can be trained again.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    model
        A `CannonModel`, or `RestrictedCannonModel` where the file states bounds on theta. Labels and wavelengths have
        no units, because the file states none. Its provenance has what the file says of itself.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such file, or cannot be read (`io.original.read_original`), and for values that no model can have,
        such as theta that is not finite where s2 is.

    Warns
    -----
    OriginalModelWarning
        If s2 is zero at most pixels, bounds on theta are lost, censored terms act, or parts of the file are unknown.

    Examples
    --------
    >>> tc.read_original_model("apogee.model")  # doctest: +SKIP
    <CannonModel of 3 labels with a training set of 1624 stars each with 8575 pixels, trained>

    """
    return converted(read_original(path))


def converted(original: OriginalModel) -> CannonModel:
    """The model of what was read; errors and warnings are those of `read_original_model`."""
    with reading(original.path, WHAT, REMEDY):
        vectorizer, columns = _vectorizer(original)
        stars = _stars(original, vectorizer)
        theta, s2 = _solution(original, columns)
        n_pixels = stars.n_pixels if theta is None else len(theta)
        settings = Settings(
            check_regularization(original.regularization, n_pixels),
            Censors(original.label_names, n_pixels or 0, {name: ~mask for name, mask in original.acts.items()}),
            checked_theta_bounds(original.theta_bounds, vectorizer),
        )
        result = None
        if theta is not None and s2 is not None:
            result = TrainingResult.from_elsewhere(stars, theta, s2, settings)
    for text in _warnings(original, settings, vectorizer, result):
        warn_user(f"{original.path}: {text}", OriginalModelWarning)
    kind = RestrictedCannonModel if settings.theta_bounds else CannonModel
    return kind._of(stars, settings, result, _provenance(original))


def _vectorizer(original: OriginalModel) -> tuple[PolynomialVectorizer, Sequence[int]]:
    """The terms, in the order of this package where they are all of a polynomial, and their columns in the file."""
    given = PolynomialVectorizer(original.label_names, terms=[list(term) for term in original.terms])
    if given.n_terms != 1 + len(original.terms):
        raise ValueError("one of its terms is the constant, which is there anyway")
    n_labels, degree = len(original.label_names), int(given.exponents.sum(axis=1).max())
    if degree > HIGHEST_DEGREE:
        raise ValueError(f"one of its terms is of degree {degree}, above {HIGHEST_DEGREE}")
    if math.comb(n_labels + degree, degree) != given.n_terms:
        return given, range(given.n_terms)
    every = PolynomialVectorizer(original.label_names, degree)
    columns = {tuple(powers): d for d, powers in enumerate(given.exponents.tolist())}
    return every, [columns[tuple(powers)] for powers in every.exponents.tolist()]


def _stars(original: OriginalModel, vectorizer: PolynomialVectorizer) -> TrainingSet:
    labels, fiducials, scales = original.training_set_labels, original.fiducials, original.scales
    if not np.isfinite(labels).all():
        star, label = np.argwhere(~np.isfinite(labels))[0]
        raise ValueError(f"the label {original.label_names[label]!r} of training star {star} is {labels[star, label]}")
    if fiducials is None or scales is None:
        # As the original package does when it reads the file, in the precision that the labels have there. In single
        # precision the median of NumPy 1 differs from that of NumPy 2 in the eighth digit.
        fiducials = np.percentile(labels, 50, axis=0)
        scales = np.ptp(np.percentile(labels, [2.5, 97.5], axis=0), axis=0)
    for name, scale in zip(original.label_names, scales, strict=True):
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"the scale of the label {name!r} is {scale}: no flux can be predicted")
    flux, ivar = original.training_set_flux, original.training_set_ivar
    if flux is not None:
        flux, ivar = check_spectra(flux, ivar, "training_set_")
        n_pixels = flux.shape[1]
    elif original.theta is not None:
        n_pixels = len(original.theta)
    else:
        raise ValueError("it is not trained, and holds no training spectra: it can be used for nothing")
    stars = TrainingSet(
        vectorizer, labels.astype(float), LabelScaling(fiducials.astype(float), scales.astype(float)), {}, flux, ivar,
        check_dispersion(original.dispersion, n_pixels),
    )  # fmt: skip
    stars.check_values()
    return stars


def _solution(original: OriginalModel, columns: Sequence[int]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Theta and s2; NaN and infinite where the original package would not use the pixel."""
    if original.theta is None or original.s2 is None:
        return None, None
    theta, s2 = original.theta[:, columns].astype(float), original.s2.astype(float)
    known = np.isfinite(s2)
    for what, bad in (
        ("s2 is negative", s2 < 0),
        ("theta is NaN or infinite and s2 finite", known & ~np.isfinite(theta).all(axis=1)),
    ):
        if bad.any():
            place = f"{int(bad.sum())} of {len(s2)} pixels, first at pixel {int(np.argmax(bad))}"
            raise ValueError(f"{what} at {place}: its training failed there. Train it again")
    if not known.any():
        raise ValueError("s2 is NaN or infinite at all pixels: its training has found no solution")
    return np.where(known[:, None], theta, np.nan), np.where(known, s2, np.inf)


def _warnings(
    original: OriginalModel, settings: Settings, vectorizer: PolynomialVectorizer, result: TrainingResult | None
) -> list[str]:
    texts = []
    if result is not None:
        zero, known = int((result.s2 == 0).sum()), int(np.isfinite(result.s2).sum())
        if 2 * zero > known:
            texts.append(
                f"s2 is exactly 0 at {zero} of {known} pixels, so that the errors of labels are those of photon noise "
                "alone, and too small: train the model again where its training spectra are at hand"
            )
        free = design_matrix_mask(Censors(original.label_names, len(result.theta), settings.censors), vectorizer)
        acting = int((np.isfinite(result.theta) & (result.theta != 0) & ~free).any(axis=1).sum())
        if acting:
            texts.append(
                f"at {acting} pixels terms act that its censors exclude, as if these were set after the training: "
                "theta is taken over as it is"
            )
    if original.model_class == "RestrictedCannonModel" and original.theta_bounds is None:
        texts.append(
            "it is a RestrictedCannonModel, whose bounds on theta are not in the file: set theta_bounds before it is "
            "trained again"
        )
    if original.unknown:
        texts.append(f"what it holds as {', '.join(original.unknown)} is not known, and left out")
    return texts


def _provenance(original: OriginalModel) -> dict[str, str]:
    said = {
        "converted_from": original.path.name,
        "original_version": original.version,
        "original_class": original.model_class,
        "original_modified": original.modified,
        "original_training_set_hash": original.training_set_hash,
    }
    return {name: text for name, text in said.items() if text}
