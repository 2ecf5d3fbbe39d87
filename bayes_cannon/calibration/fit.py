"""Calibrated label errors, learned from stars that were held out: the program `programs.residuals`, sampled by NUTS.

The chains run in coordinates in which the normal approximation at the mode is a standard normal distribution, from
overdispersed starts.
"""

import math
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.diagnostics import split_gelman_rubin
from numpyro.distributions import biject_to
from scipy.optimize import minimize

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.typing import Array, PerLabel, PerStar, StarLabel, StarLabelLabel
from bayes_cannon.core.warnings import BayesCannonWarning, warn_user
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.execution.threads import in_parallel
from bayes_cannon.posterior.chains import Draws, draw_chain, whitened_again
from bayes_cannon.posterior.settings import ChainSettings
from bayes_cannon.programs.evaluate import constrained, potential_energy, sites_of
from bayes_cannon.programs.residuals import residuals
from bayes_cannon.validate import robust_scatter

__all__ = ["Calibration", "CalibrationWarning", "calibrate"]

CHAINS = ChainSettings(n_warmup=100, n_draws=150, target_accept=0.8, max_tree_depth=6)
"""Seven leapfrog steps a draw are usual; a start far out does not get more than 63."""
LARGEST_R_HAT = 1.05
"""Largest accepted R-hat. The Monte-Carlo error of a posterior mean is then below a third of its standard deviation."""
LARGEST_DIVERGENT = 0.01
"""Largest accepted share of divergent draws."""
LONGER = 4
"""Factor by which chains that have not mixed are longer when they are run again."""
START_SPREAD = 1.5
"""Starts of the chains, in standard deviations of the normal approximation."""
FLATTEST = 0.1
"""Smallest curvature of the approximation, in unconstrained coordinates, whose priors have widths of about one."""
MAP_ITERATIONS = 500
MAP_GRADIENT = 1e-3
"""Gradient at which BFGS ends. The mode only starts and scales the chains, and need not be accurate."""
CURVATURE_STEP = 1e-3
"""Step of the central differences of gradients, in unconstrained coordinates."""
INDEFINITE = 1e-6
"""Tolerated size of negative eigenvalues of a formal correlation matrix, due to rounding."""


class CalibrationWarning(BayesCannonWarning):
    """The chains that learned the calibration have not mixed."""


class _Density(NamedTuple):
    """Arguments of the program, labels in units of their robust scatter, and the coordinates that it is sampled in.

    Attributes
    ----------
    covariance, log_snr, log_leverage, difference, reference_variance
        Of the stars that are known, as for `programs.residuals.residuals`.
    log_typical
        Logarithm of the formal errors of a typical star, shape (label,).
    mean, root
        Whitening of the unconstrained sites, shape (parameter,) and (parameter, parameter).

    """

    covariance: StarLabelLabel
    log_snr: PerStar
    log_leverage: PerStar
    difference: StarLabel
    reference_variance: StarLabel
    log_typical: PerLabel
    mean: Array = np.zeros(0)
    root: Array = np.zeros((0, 0))

    @property
    def arguments(self) -> tuple[Array, ...]:
        """Positional arguments of the program."""
        return self.covariance, self.log_snr, self.log_leverage, self.difference

    @property
    def keywords(self) -> dict[str, Array]:
        """Its keywords."""
        return {"reference_variance": self.reference_variance}


def calibrate(
    difference: StarLabel,
    covariance: StarLabelLabel,
    snr: PerStar,
    *,
    leverage: PerStar | None = None,
    reference_errors: StarLabel | None = None,
    key: int | Array = 0,
    n_warmup: int = CHAINS.n_warmup,
    n_draws: int = CHAINS.n_draws,
) -> Calibration:
    """Learn the calibration of label errors from held-out stars; `programs.residuals` states the model.

    Parameters
    ----------
    difference
        Inferred minus reference labels of stars that took no part in the training, in their units, shape (star, label).
        A star that is not finite in all that is given of it, or without a positive S/N, takes no part.
    covariance
        Formal covariance of the inferred labels, shape (star, label, label).
    snr
        S/N of the spectra, shape (star,).
    leverage
        Leverage of the inferred labels, `labelling.leverage.leverage`, shape (star,). None: the floor is the same for
        all stars.
    reference_errors
        Errors of the reference labels, in their units, shape (star, label); NaN where they are not known, which counts
        as zero. They are no part of the calibrated errors. None: the calibrated errors include them.
    key
        JAX key or an integer seed.
    n_warmup, n_draws
        Of each of the four chains. Chains that have not mixed are run once more, four times as long and with the
        covariance of their draws as the metric.

    Returns
    -------
    calibration
        Posterior means of variances and exponents, and spreads.

    Warns
    -----
    CalibrationWarning
        If R-hat of a parameter is above 1.05, or more than one draw in a hundred diverged, also after chains that were
        four times as long.

    Raises
    ------
    ValueError
        For shapes that do not fit, a formal covariance that is not positive definite, negative reference errors, a
        label whose residuals are all the same, or fewer stars than the model has parameters.

    """
    arrays = _checked(difference, covariance, snr, leverage, reference_errors)
    known = np.logical_and.reduce([np.isfinite(array).reshape(len(array), -1).all(axis=1) for array in arrays])
    known &= (arrays[2] > 0) & (arrays[3] > 0) & (np.einsum("nkk->nk", arrays[1]) > 0).all(axis=1)
    _check_number(known, n_labels=arrays[0].shape[1])
    d, c, snr, leverage, errors = (array[known] for array in arrays)
    _check_definite(c, np.flatnonzero(known))
    unit = np.asarray(robust_scatter(d))
    if not (unit > 0).all():
        label = int(np.argmin(unit))
        raise ValueError(
            f"the residuals of label {label} are the same for half of the stars: they have no scatter to calibrate by"
        )
    snr_median, leverage_median = float(np.median(snr)), float(np.median(leverage))
    c = c / np.outer(unit, unit)
    density = _Density(
        c, np.log(snr / snr_median), np.log(leverage / leverage_median), d / unit, (errors / unit) ** 2,
        log_typical=0.5 * np.log(np.median(np.einsum("nkk->nk", c), axis=0)),
    )  # fmt: skip
    with own_jax_settings():
        jax_key: Any = jax.random.key(key) if isinstance(key, int | np.integer) else key
        density = _whitened(density)
        draws, divergences, z = _sampled(density, jax_key, n_warmup, n_draws)
        if not _mixed(r_hat := _largest_r_hat(draws), divergences, draws):
            before = np.asarray(density.root)
            mean, root = whitened_again(np.asarray(density.mean) + z @ before.T, before)
            density = density._replace(mean=mean, root=root)
            draws, divergences, _ = _sampled(density, jax_key, LONGER * n_warmup, LONGER * n_draws)
            r_hat = _largest_r_hat(draws)
    if not _mixed(r_hat, divergences, draws):
        _warn(r_hat, divergences)
    means, spread = _summaries(draws, unit)
    return Calibration(
        **means, spread=spread, snr_median=snr_median, leverage_median=leverage_median,
        snr_range=(float(snr.min()), float(snr.max())), n_stars=int(known.sum()), n_left_out=int((~known).sum()),
        r_hat=r_hat, divergences=divergences,
    )  # fmt: skip


def _checked(
    difference: StarLabel,
    covariance: StarLabelLabel,
    snr: PerStar,
    leverage: PerStar | None,
    reference_errors: StarLabel | None,
) -> tuple[np.ndarray, ...]:
    """All of them as arrays whose shapes fit."""
    difference = np.asarray(difference, float)
    if difference.ndim != 2 or 0 in difference.shape:
        raise ValueError(f"difference must have shape (star, label), got {difference.shape}")
    n_stars, n_labels = difference.shape
    errors = np.zeros(difference.shape) if reference_errors is None else np.asarray(reference_errors, float)
    given = {
        "covariance": (np.asarray(covariance, float), (n_stars, n_labels, n_labels)),
        "snr": (np.asarray(snr, float), (n_stars,)),
        "leverage": (np.ones(n_stars) if leverage is None else np.asarray(leverage, float), (n_stars,)),
        "reference_errors": (np.where(np.isnan(errors), 0.0, errors), (n_stars, n_labels)),
    }
    for name, (array, shape) in given.items():
        if array.shape != shape:
            raise ValueError(
                f"{name} must have shape {shape}, because difference has {difference.shape}; got {array.shape}"
            )
    if (errors < 0).any():
        star, label = np.argwhere(errors < 0)[0]
        raise ValueError(f"reference_errors has {errors[star, label]} for label {label} of star {star}: give NaN or 0")
    return difference, *(array for array, _ in given.values())


def _check_number(known: np.ndarray, n_labels: int) -> None:
    """More stars than parameters: scale, slope and power of each label, and the elements of the floor."""
    n_parameters = 3 * n_labels + n_labels * (n_labels + 1) // 2
    if known.sum() <= n_parameters:
        raise ValueError(
            f"the calibration of {n_labels} labels has {n_parameters} parameters, but only {known.sum()} held-out "
            "stars have labels, errors and S/N: train on more stars"
        )


def _check_definite(covariance: StarLabelLabel, rows: np.ndarray) -> None:
    error = np.sqrt(np.einsum("nkk->nk", covariance))
    lowest = np.linalg.eigvalsh(covariance / (error[:, :, None] * error[:, None, :]))[:, 0]
    if lowest.min() < -INDEFINITE:
        star = int(np.argmin(lowest))
        raise ValueError(
            f"covariance of star {rows[star]} is not positive definite: its correlation matrix has the eigenvalue "
            f"{lowest[star]:.3g}; leave the star out"
        )


def _sampled(
    density: _Density, key: jax.Array, n_warmup: int, n_draws: int
) -> tuple[dict[str, np.ndarray], int, np.ndarray]:
    """Draws of all sites, shape (chain, draw, ...), the number of divergences, and the whitened coordinates."""
    settings = replace(CHAINS, n_warmup=n_warmup, n_draws=n_draws)
    keys, starts = _keys_and_starts(key, len(density.mean), settings.n_chains)

    def draw(chain: tuple[jax.Array, jax.Array]) -> Draws:
        with own_jax_settings():  # each thread has a precision of its own
            drawn: Draws = jax.tree.map(np.asarray, draw_chain(_potential, density, *chain, settings))
        return drawn

    chains = list(in_parallel(draw, zip(keys, starts, strict=True)))
    z = np.stack([chain.z for chain in chains])
    draws = {name: np.asarray(values) for name, values in _sites(density, z).items()}
    return draws, int(sum(chain.diverging.sum() for chain in chains)), z


@partial(jax.jit, static_argnums=(1, 2))
def _keys_and_starts(key: jax.Array, n_parameters: int, n_chains: int) -> tuple[jax.Array, jax.Array]:
    """Keys of the chains, shape (chain,), and their starts, shape (chain, parameter)."""
    start_key, chain_key = jax.random.split(key)
    starts = START_SPREAD * jax.random.normal(start_key, (n_chains, n_parameters))
    return jax.random.split(chain_key, n_chains), starts


def _potential(density: _Density, z: Array) -> jax.Array:
    """Minus the log density of the whitened coordinates z, shape (parameter,)."""
    return potential_energy(residuals, _unconstrained(density, z), *density.arguments, **density.keywords)


_value_and_gradient = jax.jit(jax.value_and_grad(_potential, argnums=1))


@jax.jit
def _sites(density: _Density, z: Array) -> dict[str, jax.Array]:
    """All sites of draws z, shape (chain, draw, parameter)."""
    # The parameters do not depend on the stars: one is enough.
    arguments, keywords = jax.tree.map(lambda array: array[:1], (density.arguments, density.keywords))

    def of_draw(z: Array) -> dict[str, jax.Array]:
        return constrained(residuals, _unconstrained(density, z), *arguments, **keywords)

    return jax.vmap(jax.vmap(of_draw))(z)


def _unconstrained(density: _Density, z: Array) -> dict[str, Array]:
    """Unconstrained sites of the program at ``mean + root z``, with scale and floor of each label transformed.

    In the place of scale and floor stand the total error of a typical star and the floor's share in it. The stars know
    the total ``e^p`` far better than the share ``1 / (1 + e^-q)`` of its variance, so that scale and floor themselves
    lie along a sharp arc. The map from p and q to both logarithms has the determinant 1/2 everywhere, and leaves
    densities as they are.
    """
    shapes = _site_shapes(density.difference.shape[1])
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = jnp.split(density.mean + density.root @ z, ends[:-1])
    sites: dict[str, Array] = {
        name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
    total, share = sites["log_scale"], sites["width"]
    return sites | {
        "log_scale": total + jax.nn.log_sigmoid(-share) / 2 - density.log_typical,
        "width": total + jax.nn.log_sigmoid(share) / 2,
    }


@cache
def _site_shapes(n_labels: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the program's parameters in unconstrained coordinates."""

    def parameters() -> dict[str, Any]:
        one = jnp.ones((1, n_labels, n_labels)), jnp.zeros(1), jnp.zeros(1), jnp.zeros((1, n_labels))
        return {
            name: biject_to(site["fn"].support).inv(site["value"])
            for name, site in sites_of(residuals, *one).items()
            if site["type"] == "sample" and not site["is_observed"]
        }

    return {name: array.shape for name, array in jax.eval_shape(parameters).items()}


def _whitened(density: _Density) -> _Density:
    """The density in coordinates in which a normal approximation at its mode is a standard normal distribution."""
    n_parameters = sum(math.prod(shape) for shape in _site_shapes(density.difference.shape[1]).values())
    density = density._replace(mean=np.zeros(n_parameters), root=np.eye(n_parameters))

    def loss(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _value_and_gradient(density, z)
        return float(value), np.asarray(gradient)

    options = {"gtol": MAP_GRADIENT, "maxiter": MAP_ITERATIONS}
    mode = minimize(loss, density.mean, jac=True, method="BFGS", options=options).x
    steps = CURVATURE_STEP * np.eye(len(mode))
    rows = np.array([loss(mode + step)[1] - loss(mode - step)[1] for step in steps]) / (2 * CURVATURE_STEP)
    curvature, directions = np.linalg.eigh((rows + rows.T) / 2)
    return density._replace(mean=mode, root=directions / np.sqrt(np.maximum(curvature, FLATTEST)))


def _monitored(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the calibration is made of, (chain, draw, ...): tails as a logarithm, the floor by its standard deviations.

    The floor's correlations are watched too, through its covariance.
    """
    one_of_each = np.tril_indices(draws["floor"].shape[-1])
    return {
        "log_scale": draws["log_scale"], "slope": draws["slope"], "power": draws["power"],
        "floor": draws["floor"][..., *one_of_each], "tails": np.log(draws["tails"]), "tail_power": draws["tail_power"],
    }  # fmt: skip


def _largest_r_hat(draws: dict[str, np.ndarray]) -> float:
    return max(float(np.max(split_gelman_rubin(values))) for values in _monitored(draws).values())


def _mixed(r_hat: float, divergences: int, draws: dict[str, np.ndarray]) -> bool:
    return r_hat <= LARGEST_R_HAT and divergences <= LARGEST_DIVERGENT * draws["tails"].size


def _warn(r_hat: float, divergences: int) -> None:
    warn_user(
        f"the calibration's chains have not mixed: R-hat is {r_hat:.3f}, and {divergences} draws diverged. Raise "
        "n_warmup and n_draws, or calibrate on more stars",
        CalibrationWarning,
    )


def _summaries(draws: dict[str, np.ndarray], unit: np.ndarray) -> tuple[dict, dict[str, np.ndarray]]:
    """Point estimates and posterior standard deviations, in label units.

    Of the squared factor on the formal errors, of the floor and of nu / (nu - 2) it is the posterior mean, so that
    variances are, even where the stars cannot tell scale and floor apart; of the exponents it is the mean, too.
    """
    draws = {name: values.reshape(-1, *values.shape[2:]) for name, values in draws.items()}
    tails = 1 / np.mean(1 / draws["tails"])
    means = {name: draws[name].mean(axis=0) for name in ("slope", "power")} | {
        "log_scale": np.log(np.mean(np.exp(2 * draws["log_scale"]), axis=0)) / 2,
        "floor": draws["floor"].mean(axis=0) * np.outer(unit, unit),
        "tails": float(tails),
        "tail_power": float(draws["tail_power"].mean()),
    }
    deviations = np.sqrt(np.einsum("nkk->nk", draws["floor"])) * unit
    spread = {name: draws[name].std(axis=0) for name in ("log_scale", "slope", "power", "tail_power")}
    return means, spread | {"floor": deviations.std(axis=0), "tails": tails * np.log(draws["tails"]).std()}
