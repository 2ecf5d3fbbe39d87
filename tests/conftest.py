"""What the tests share: run-time checks of shapes, simulated training sets, and the brute-force reference.

JAX compiles anew for every shape, which costs seconds, so that tests take their arrays from here wherever they can:
200 stars, 60 pixels, three labels, ten terms.
"""

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import settings
from jaxtyping import install_import_hook

# Before NumPy is imported: two test processes have a core each, and more threads than cores make small products slow.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before JAX is imported: what one test process, notebook or command has compiled the others then only load.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "bayes-cannon-tests-compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Before the package is imported: the shapes in the annotations of compiled code are then checked while it is traced.
# Not in training.train, to which users pass what they have, because there the package's own errors are wanted, and not
# in the functions that SciPy calls a million times.
_CHECKED = ("certificate", "lasso", "problem", "profile", "reml")
install_import_hook([f"bayes_cannon.training.{name}" for name in _CHECKED], "beartype.beartype")

import bayes_cannon as tc  # noqa: E402
from bayes_cannon.core.terms import Terms  # noqa: E402
from bayes_cannon.training.problem import PixelProblem  # noqa: E402

# The first call of a compiled function takes seconds, and a test that fails has to fail again.
settings.register_profile("bayes_cannon", deadline=None, derandomize=True, database=None)
settings.load_profile("bayes_cannon")

NAMES = ("TEFF", "LOGG", "FE_H")
SHARED = Path(__file__).parents[1] / "../shared"


@dataclass(frozen=True)
class Simulation:
    """A training set drawn from the model itself, and its truth."""

    labels: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    dispersion: np.ndarray
    theta: np.ndarray
    s2: np.ndarray
    vectorizer: tc.vectorizer.PolynomialVectorizer

    def model(self, pixels: slice = slice(None), **kwargs: object) -> tc.CannonModel:
        """An untrained model of some of the pixels."""
        kwargs = {"dispersion": self.dispersion[pixels]} | kwargs
        return tc.CannonModel(self.labels, self.flux[:, pixels], self.ivar[:, pixels], self.vectorizer, **kwargs)

    def problem(self, regularization: float | np.ndarray = 0.0) -> PixelProblem:
        """The training problem of all pixels."""
        return PixelProblem.unbounded(Terms(self.vectorizer.exponents, self.x), self.flux, self.ivar, regularization)

    @property
    def x(self) -> np.ndarray:
        """Scaled labels."""
        return self.model().scaling.scaled(self.labels)


def simulated(
    n_stars: int = 200,
    n_pixels: int = 60,
    *,
    scatter: tuple[float, float] = (0.0, 0.01),
    noise: tuple[float, float] = (0.003, 0.015),
    seed: int = 0,
) -> Simulation:
    """Quadratic model of three labels, 40 % of its coefficients zero; scatter and noise are uniform in their ranges."""
    rng = np.random.default_rng(seed)
    labels = np.column_stack(
        [rng.uniform(4000, 5500, n_stars), rng.uniform(1, 3.5, n_stars), rng.normal(-0.3, 0.3, n_stars)]
    )
    vectorizer = tc.vectorizer.PolynomialVectorizer(NAMES, 2)
    theta = rng.normal(0, 0.03, (n_pixels, 10)) * (rng.random((n_pixels, 10)) > 0.4)
    theta[:, 0] = 1
    s = rng.uniform(*scatter, n_pixels)
    sigma = rng.uniform(*noise, (n_stars, n_pixels))
    low, median, high = np.percentile(labels, [2.5, 50, 97.5], axis=0)
    terms = vectorizer((labels - median) / (high - low))
    flux = (theta @ terms).T + np.hypot(sigma, s) * rng.normal(size=sigma.shape)
    return Simulation(labels, flux, 1 / sigma**2, np.linspace(16650, 16800, n_pixels), theta, s**2, vectorizer)


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """Close the figures of a test, which pyplot keeps where another test has imported it."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def simulate() -> Callable[..., Simulation]:
    """`simulated`, for tests that need another training set than `training`."""
    return simulated


@pytest.fixture(scope="session")
def training() -> Simulation:
    """The training set that most tests use; nobody may change it."""
    simulation = simulated()
    for array in (simulation.labels, simulation.flux, simulation.ivar, simulation.dispersion):
        array.setflags(write=False)
    return simulation


@pytest.fixture(scope="session")
def trained(training: Simulation) -> tc.CannonModel:
    """A model trained on it without regularization; nobody may change it."""
    model = training.model()
    theta, s2, _ = model.train()
    theta.setflags(write=False)
    s2.setflags(write=False)
    return model


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., tuple[float, np.ndarray, float]]:
    """The independent optimum of a pixel, `tests/training/brute_force.py`."""
    return _module("brute_force", Path(__file__).parent / "training/brute_force.py").brute_force


@pytest.fixture(scope="session")
def write_apstar() -> Callable[..., np.ndarray]:
    """A function that writes an apStar file by SDSS's data model, short in pixels, and returns its first flux."""

    def write(
        path: Path, *, star: str = "", visits: int = 2, pixels: int = 50, seed: int = 0, **cards: object
    ) -> np.ndarray:
        rng = np.random.default_rng(seed)
        flux = rng.uniform(50, 150, (visits + 2, pixels)).astype(np.float32)
        error = np.full_like(flux, 2.0)
        mask = np.zeros(flux.shape, dtype=np.int16)
        mask[0, 3] = 1  # BADPIX
        grid = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR", "DC-FLAG": 1}
        primary = fits.PrimaryHDU()
        primary.header.update(OBJID=star or path.stem, NVISITS=visits, SNR=50.0 + seed, VHELIO=1.5, **cards)
        units = ("Flux (10^-17 erg/s/cm^2/Ang)", "Error (10^-17 erg/s/cm^2/Ang)", "Flag Mask (bitwise)")
        images = [fits.ImageHDU(array) for array in (flux, error, mask)]
        for image, unit in zip(images, units, strict=True):
            image.header.update(grid, BUNIT=unit)
        fits.HDUList([primary, *images]).writeto(path)
        return flux[0]

    return write


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a file of the reference data; the test is skipped where it is not there."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"the reference data beside the project's folder has no {name}")
        return SHARED / name

    return find


@pytest.fixture(scope="session")
def cases(shared: Callable[[str], Path]) -> ModuleType:
    """The benchmark cases of the reference data, imported by their path."""
    return _module("cases", shared("cases.py"))


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
