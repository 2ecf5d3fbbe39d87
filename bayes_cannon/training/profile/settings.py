"""The numbers of the profile solver, in one place."""

from dataclasses import dataclass
from math import log
from typing import NamedTuple

from bayes_cannon.core.typing import Scalar


class Tolerances(NamedTuple):
    """When the joint Newton iteration of a pixel has converged.

    Attributes
    ----------
    unpenalized_gap
        Relative duality gap where nothing is penalized.
    expected_gap, gap
        Where terms are penalized: the gap expected from the Newton decrement, and the gap that is certain whatever
        the errors of interpolation and rounding are.
    profile_gradient
        Derivative of the training scalar by s2 over the sum of the weights.

    """

    unpenalized_gap: Scalar
    expected_gap: Scalar
    gap: Scalar
    profile_gradient: Scalar


_TOLERANCES = Tolerances(1e-13, 1e-16, 1e-10, 1e-8)
_PATH_TOLERANCES = Tolerances(4e-10, 2e-10, 5e-9, 3e-5)


@dataclass(frozen=True)
class ProfileSettings:
    """Settings of the profile solver. They are constants of the compiled programs; none changes what is minimized."""

    # Blocks of pixels.
    numbers_per_block: int = 2**17
    """Numbers in one (pixel, star) array: 1 MiB, so that it stays in the cache and few pixels wait for the slowest.
    On a GPU it is `execution.devices.NUMBERS_ON_GPU`."""
    smallest_block: int = 32
    """Pixels in a block however many stars there are."""
    straggler_share: float = 1 / 16
    """A block stops when no more than this share of its pixels is unfinished; those of all blocks are then solved
    together."""
    star_arrays: int = 10
    """Upper bound on the number of (pixel, star) arrays that a compiled program holds at once."""
    term_arrays: int = 8
    """The same for (pixel, term, term) arrays."""

    # Interpolation of the weighted sums in s2.
    n_nodes: int = 5
    """Chebyshev nodes for a training at one strength."""
    n_path_nodes: int = 7
    """Nodes for a path. Each node makes the Gram matrix ten times as accurate, which saves a path exact steps."""
    reference_ridge: float = 1e-5
    """Relative ridge of the reference fit, above the rounding of a Gram matrix in float32."""
    min_noise_range: float = log(2)
    """Smallest logarithmic range of noise variances that the poles cover."""
    max_noise_range: float = log(1e6)
    """Largest such range."""
    difference_step: float = 1e-3
    """Step of the central differences, in ln(variance)."""
    max_interpolation_error: float = 0.02
    """Relative error of the sum of the weights above which a pixel needs exact Gram matrices."""

    # Scan of the profile for its minima.
    grid_size: int = 16
    """Values of s2."""
    sweeps: int = 4
    """Sweeps of coordinate descent at each value of s2, starting from the coefficients at the one before."""
    first_sweeps: int = 16
    """Sweeps at the first value."""
    warm_sweeps: int = 2
    """Sweeps at each value where a scan at another penalty is known."""
    exact_grid_size: int = 64
    """Values of s2 in a scan with exact sums."""
    exact_sweeps: int = 12
    """Sweeps at each of them."""
    few_grid_size: int = 96
    """Values of s2 where stars are few, ..."""
    exact_rounds: int = 8
    """... and rounds of the lasso at each of them, at most."""
    few_stars: int = 64
    """Up to so many stars the minima are looked for by an exact scan if ..."""
    even_noise: float = 10.0
    """... their noise variances differ by more than this factor: few stars of very different noise make minima that are
    narrower than the spacing of the other scan."""
    exact_minima: int = 6
    """Minima of the exact scan that are solved, whatever their height."""
    polynomial_points: int = 5
    """Values of the grid whose interpolating polynomial locates a minimum between them."""
    second_minimum_margin: float = 0.15
    """A second minimum counts if it is within this times the number of stars of the lowest: a value of the grid may be
    above the minimum that it stands for by a tenth of the number of stars."""
    largest_mismatch: float = 0.02
    """A chi^2 that is further than this times the number of stars from the interpolated one means that the scan may be
    wrong."""

    # Newton steps on theta and s2 together.
    tolerances: Tolerances = _TOLERANCES
    """For a training at one strength."""
    path_tolerances: Tolerances = _PATH_TOLERANCES
    """For a path: theta and s2 are accurate to a hundredth of their errors for up to 1e5 stars."""
    max_steps: int = 16
    """Steps after which a pixel goes to the bracketed Newton method."""
    interpolated_steps: int = 3
    """Upper bound on the first steps, which use the interpolated problem and cost no pass over the data."""
    settled_scatter: float = 2e-3
    """These steps end when the last changed ln(c + s2) by less than this, ..."""
    settled_theta: float = 1e-4
    """... and chi^2, relatively, by less than this."""
    oscillation_step: float = 0.05
    """A step in ln(c + s2) longer than this is at most half of the one before if it has the opposite sign."""
    max_step: float = 0.3
    """Longest step in ln(c + s2)."""
    max_halley_step: float = 2.0
    """Longest step in ln(c + s2) of Halley's method alone."""
    max_halley_correction: float = 2.0
    """Largest ratio of Halley's step to Newton's: beyond it the third derivative is no longer a correction."""
    many_terms: int = 64
    """Number of terms from which on the systems of the active terms are solved in smaller matrices."""
    active_eighths: tuple[int, ...] = (2, 3, 5)
    """Their sizes in eighths of the number of terms. Each costs a tenth of a second of compilation."""

    # Certificates of the joint iteration.
    gap_factor: float = 2.0
    """Without penalties and bounds the exact gap is at most this times that by the interpolated Gram matrix if ..."""
    trusted_error: float = 0.1
    """... no interpolated weight has a larger relative error than this, and ..."""
    trusted_pivot: float = 1e-2
    """... no squared pivot of the scaled matrix, whose float32 sums are accurate to 1e-6, is smaller than this."""
    float32_rounding: float = 2e-6
    """Rounding error assumed for float32 sums, relative to the sum of the absolute values: three times the largest
    observed."""
    dependent_pivot: float = 1e-11
    """Squared pivot of the scaled Gram matrix below which terms count as linearly dependent."""

    # Bracketed Newton method.
    bracket_gradient_tolerance: float = 1e-9
    """On p' over the sum of the weights."""
    bracket_lasso_tolerance: float = 1e-8
    """On the largest change of a single coordinate, in units of the noise of one star."""
    bisection_after: int = 8
    """Newton steps after which every other step is a bisection, so that the search ends."""
    max_bracket_steps: int = 60
    """Steps at most."""


SETTINGS = ProfileSettings()
