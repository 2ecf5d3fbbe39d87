"""Cases A and B as arrays on disk, which every process of a benchmark maps into memory."""

import importlib.util
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.training.problem import PixelProblem

SCRIPT = Path(__file__).resolve().parents[2] / "shared/cases.py"
ROWS = 1000
"""Stars that are simulated at once."""


@dataclass(frozen=True)
class Size:
    """How large a case is: training stars, pixels, stars to label, and labels."""

    stars: int
    pixels: int
    spectra: int
    labels: int

    @property
    def vectorizer(self) -> PolynomialVectorizer:
        """Quadratic, as in both cases."""
        return PolynomialVectorizer([f"label_{k}" for k in range(self.labels)], 2)

    @property
    def moments(self) -> int:
        """Number of distinct products of two terms."""
        return MomentBasis.from_terms(self.vectorizer.exponents).n_moments


FULL = {"A": Size(1_000, 7_214, 2_000, 5), "B": Size(12_681, 8_575, 150_677, 17)}


def case_module() -> ModuleType:
    """The module that makes cases A and B; the script stops where it is absent."""
    if not SCRIPT.exists():
        sys.exit(f"The benchmarks need cases.py, which makes cases A and B, in {SCRIPT.parent}: it is not there")
    spec = importlib.util.spec_from_file_location("cases", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spread(n: int, some: int) -> np.ndarray:
    """Indices of some of n, evenly spread."""
    return np.linspace(0, n - 1, min(some, n)).round().astype(int)


def write_case(case: str, folder: Path, size: Size) -> dict:
    """Write what `load` reads: for A float64 spectra of the emulator, for B float32 ones, drawn in blocks of stars."""
    cases = case_module()
    arrays = {}
    if case == "A":
        chosen = spread(FULL["A"].pixels, size.pixels)
        for name, n, seed in (("training", size.stars, 0), ("test", size.spectra, 1)):
            labels, flux, ivar = cases.case_a(n, seed)
            arrays |= {f"{name}_labels": labels, f"{name}_flux": flux[:, chosen], f"{name}_ivar": ivar[:, chosen]}
    else:
        labels, theta, s2 = cases.case_b(size.stars, size.pixels, size.labels)
        rng = np.random.default_rng(1)
        others = rng.multivariate_normal(np.zeros(size.labels), 0.5 * np.eye(size.labels) + 0.5, size.spectra)
        arrays |= {"training_labels": labels, "test_labels": others, "theta": theta, "s2": s2}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array))  # One spectrum after the other, as surveys do.
    if case == "B":
        scaling = LabelScaling.from_labels(labels, size.vectorizer.label_names)
        for seed, (name, stars) in enumerate((("training", labels), ("test", others))):
            maps = [
                np.lib.format.open_memmap(folder / f"{name}_{kind}.npy", "w+", "f4", (len(stars), size.pixels))
                for kind in ("flux", "ivar")
            ]
            for first in range(0, len(stars), ROWS):
                rows = slice(first, first + ROWS)
                drawn = cases.case_b_spectra(stars[rows], theta, s2, scaling.fiducial, scaling.scale, [seed, first])
                for target, block in zip(maps, drawn, strict=True):
                    target[rows] = block
    np.save(folder / "exponents.npy", size.vectorizer.exponents)
    os.sync()  # So that nothing is left to be written while others measure.
    return {}


def load(folder: Path, name: str) -> np.ndarray:
    """One of the arrays, mapped."""
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def training_problem(folder: Path, size: Size, regularization: float) -> PixelProblem:
    """The problem, its spectra still mapped."""
    flux, ivar, labels = (load(folder, f"training_{name}") for name in ("flux", "ivar", "labels"))
    x = LabelScaling.from_labels(labels, size.vectorizer.label_names).scaled(labels)
    empty = PixelProblem.unbounded(Terms(size.vectorizer.exponents, x), flux[:0], ivar[:0], regularization)
    return replace(empty, flux=flux, ivar=ivar)
