"""Time to resample spectra of APOGEE's 8,575 pixels, and to shift each to rest, beside specutils.

uv run python benchmarks/resampling.py
"""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from common import arguments, machine, measured, median_seconds, number, publish, table

from bayes_cannon.core.grids import grid_of
from bayes_cannon.core.resampling import resample

GRID = "apogee"


def spectra(n_stars: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Flux, ivar, wavelength half a pixel beside the grid's, and velocities in km/s."""
    rng = np.random.default_rng(0)
    grid = grid_of(GRID)
    flux = rng.normal(1, 0.01, (n_stars, grid.n_pixels))
    return flux, np.full(flux.shape, 1e4), grid.wavelength * 10**3e-6, rng.normal(0, 60, n_stars)


def ours(n_stars: int, repeats: int, moving: bool) -> dict:
    """Seconds a spectrum, of all together."""
    flux, ivar, wavelength, velocity = spectra(n_stars)
    velocity = velocity if moving else 0.0

    def call() -> object:
        return resample(flux, ivar, wavelength, GRID, velocity=velocity, log_linear=True)

    call()
    return {"seconds": median_seconds(call, repeats)[0] / n_stars}


def specutils(repeats: int) -> dict:
    """Seconds of one spectrum at rest by specutils, and its largest difference from ours inside both ends."""
    (flux, *_), (ivar, *_), wavelength, _ = spectra(1)
    time, theirs = median_seconds(by_specutils(flux, ivar, wavelength), repeats)
    mine = resample(flux, ivar, wavelength, GRID)[0]
    return {"seconds": time, "difference": float(np.abs(mine - theirs)[2:-2].max())}


def by_specutils(flux: np.ndarray, ivar: np.ndarray, wavelength: np.ndarray) -> Callable[[], np.ndarray]:
    import astropy.units as u
    from astropy.nddata import InverseVariance
    from specutils import Spectrum
    from specutils.manipulation import FluxConservingResampler

    spectrum = Spectrum(
        flux=flux * u.dimensionless_unscaled, spectral_axis=wavelength * u.AA, uncertainty=InverseVariance(ivar)
    )
    return lambda: FluxConservingResampler()(spectrum, grid_of(GRID).wavelength * u.AA).flux.value


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--stars", type=int, default=1000)
    given = parser.parse_args()
    repeats = given.repeats or 5
    about = measured(machine)["text"]
    rows, time = [], {}
    for work, stars, moving in (
        ("same pixels", given.stars, False), ("same pixels, one at a time", 1, False),
        ("a velocity each", given.stars, True), ("a velocity each, one at a time", 1, True),
    ):  # fmt: skip
        time[work] = measured(ours, stars, repeats, moving)["seconds"]
        rows.append(["bayes_cannon", work, str(stars), number(1e3 * time[work]), "-", "-"])
    if find_spec("specutils") is not None:
        result = measured(specutils, min(repeats, 3))
        faster = number(result["seconds"] / time["same pixels, one at a time"])
        difference = number(result["difference"], 2)
        rows.append(["specutils", "same pixels", "1", number(1e3 * result["seconds"]), faster, difference])
    header = ["package", "work", "spectra", "time a spectrum, ms", "ours is faster by", "largest difference of flux"]
    publish("resampling", [about, table(header, rows)], write=given.write)


if __name__ == "__main__":
    main()
