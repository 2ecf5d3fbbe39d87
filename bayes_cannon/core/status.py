"""How a fit of a pixel or of a star ended, as data: a number per pixel or star, and the text that a person is shown.

Inside compiled code a failure cannot be raised, so that every fit returns one of these. Nothing is ever hidden behind
a plausible number: where a status says that there is no result, the result is NaN.
"""

from enum import IntEnum


class PixelStatus(IntEnum):
    """How the training of one pixel ended."""

    CONVERGED = 0
    ZERO_SCATTER = 1
    MAX_ITERATIONS = 2
    NO_INFORMATION = 3
    TOO_FEW_STARS = 4
    DEGENERATE = 5
    FAILED = 6

    @property
    def message(self) -> str:
        """What happened, and what to do about it."""
        return _PIXEL_MESSAGES[self]

    @property
    def has_solution(self) -> bool:
        """Whether theta and s2 are numbers."""
        return self not in (PixelStatus.NO_INFORMATION, PixelStatus.TOO_FEW_STARS)


class PosteriorStatus(IntEnum):
    """How the sampling of one posterior ended, of a pixel or of a star."""

    CONVERGED = 0
    RETRIED = 1
    NOT_MIXED = 2
    DIVERGENT = 3
    INEXACT = 4
    NO_INFORMATION = 5
    IMPROPER = 6
    SEVERAL_MODES = 7
    MODE_EXCLUDED = 8
    OUTSIDE_TRAINING_SET = 9
    BAD_SPECTRUM = 10

    @property
    def message(self) -> str:
        """What happened, and what to do about it."""
        return _POSTERIOR_MESSAGES[self]

    @property
    def has_draws(self) -> bool:
        """Whether there is a posterior at all."""
        without = (PosteriorStatus.NO_INFORMATION, PosteriorStatus.IMPROPER, PosteriorStatus.BAD_SPECTRUM)
        return self not in without


class StarStatus(IntEnum):
    """How the fit of one star's labels ended."""

    CONVERGED = 0
    OUTSIDE_TRAINING_SET = 1
    MAX_ITERATIONS = 2
    NO_INFORMATION = 3
    TOO_FEW_PIXELS = 4
    SINGULAR = 5
    BAD_SPECTRUM = 6
    UNLIKE_TRAINING_SPECTRA = 7
    SEVERAL_MINIMA = 8
    ROUGH_INTEGRAL = 9
    AGAINST_PRIOR = 10

    @property
    def message(self) -> str:
        """What happened, and what to do about it."""
        return _STAR_MESSAGES[self]

    @property
    def has_solution(self) -> bool:
        """Whether labels are numbers; of a singular fit those that the spectrum determines are."""
        return self not in (StarStatus.NO_INFORMATION, StarStatus.TOO_FEW_PIXELS, StarStatus.BAD_SPECTRUM)


_PIXEL_MESSAGES = {
    PixelStatus.CONVERGED: "converged",
    PixelStatus.ZERO_SCATTER: "converged to s2 = 0: the noise alone explains the residuals",
    PixelStatus.MAX_ITERATIONS: "stopped before convergence: the certificate states how far from the optimum; "
    "raise the limits in op_kwds or train again, which starts from here",
    PixelStatus.NO_INFORMATION: "no star has a positive ivar at this pixel: theta is NaN, s2 infinite, "
    "and the pixel is skipped in the test step",
    PixelStatus.TOO_FEW_STARS: "fewer stars with a positive ivar than free terms and no regularization: theta is not "
    "determined, so that it is NaN and the pixel is skipped; add stars, lower the order or set a regularization",
    PixelStatus.DEGENERATE: "the terms are linearly dependent for the stars with a positive ivar at this pixel: the "
    "optimum is not unique, one of the minimizers is returned; remove a label or set a regularization",
    PixelStatus.FAILED: "the optimizer failed: see its own message in the record; "
    "use op_method=None, which certifies its result",
}

_STAR_MESSAGES = {
    StarStatus.CONVERGED: "converged",
    StarStatus.OUTSIDE_TRAINING_SET: "converged outside the range of the training labels: an extrapolation",
    StarStatus.MAX_ITERATIONS: "stopped before convergence: the labels are the best found",
    StarStatus.NO_INFORMATION: "no pixel has a positive ivar and a trained theta: the labels are NaN",
    StarStatus.TOO_FEW_PIXELS: "fewer usable pixels than labels: the labels are not determined and therefore NaN",
    StarStatus.SINGULAR: "the spectrum does not determine every label: those that it leaves open are NaN",
    StarStatus.BAD_SPECTRUM: "the ivar of a pixel is negative or not finite, or the flux is not finite where ivar is "
    "positive: the labels are NaN; set ivar to 0 at these pixels",
    StarStatus.UNLIKE_TRAINING_SPECTRA: "the spectrum is not like those that the model was trained on: see misfit, and "
    "check the normalization, the units, ivar and the kind of the star; labels and errors are not to be trusted",
    StarStatus.SEVERAL_MINIMA: "other labels fit the spectrum nearly as well: see second_labels",
    StarStatus.ROUGH_INTEGRAL: "the mean over the labels rests on few points of the integration: labels and errors are "
    "rough; sample_labels is exact",
    StarStatus.AGAINST_PRIOR: "the prior excludes what the spectrum says: it moves the labels by more than five of "
    "their errors, or to where no mean is found, and labels are NaN; look at likelihood_labels, or widen the prior",
}

_POSTERIOR_MESSAGES = {
    PosteriorStatus.CONVERGED: "the chains agree",
    PosteriorStatus.RETRIED: "the chains agree after a second run",
    PosteriorStatus.NOT_MIXED: "the chains disagree or have few effective draws, in two runs: look at R-hat "
    "and the effective sample sizes, and draw more",
    PosteriorStatus.DIVERGENT: "many trajectories diverged or reached the maximum tree depth in two runs: "
    "the draws may miss a part of the posterior",
    PosteriorStatus.INEXACT: "the likelihood could not be interpolated well enough in s: the noise of the stars spans "
    "too many decades; leave out stars of extreme S/N",
    PosteriorStatus.NO_INFORMATION: "no positive ivar or no trained theta: there is no posterior",
    PosteriorStatus.IMPROPER: "the data do not determine every parameter and the prior is flat: the posterior is "
    "improper. Of a pixel: set a regularization, whose Laplace prior makes it proper, or leave terms out. Of a star: "
    "give its labels a prior or bounds",
    PosteriorStatus.BAD_SPECTRUM: "the ivar of a pixel is negative or not finite, or the flux is not finite where ivar "
    "is positive: there is no posterior; set ivar to 0 at these pixels",
    PosteriorStatus.SEVERAL_MODES: "the chains agree around the best mode, but another mode is nearly as probable: "
    "of a star see the modes; of a pixel the draws are from one of the minima of training, so that another "
    "regularization decides between them",
    PosteriorStatus.MODE_EXCLUDED: "the chains agree, but the prior excludes the maximum-likelihood labels: "
    "look at the spectrum, or widen the prior",
    PosteriorStatus.OUTSIDE_TRAINING_SET: "the chains agree, but outside the range of the training labels: an "
    "extrapolation; look at the spectrum, or give the labels a prior or bounds",
}
