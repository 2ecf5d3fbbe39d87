"""Runs the original package, thecannon 0.2.96, in an environment of its own.

``benchmark`` makes that environment and calls this file in it, which trains or tests and prints one line of JSON.
"""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from memory import peak_gigabytes

REQUIREMENTS = ("annieslasso==0.2.96", "scipy==1.14.*", "numpy<2.3")


def environment() -> Path:
    """Its Python, installed with uv in the user's cache folder where it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "bayes_cannon-benchmarks" / "thecannon-0.2.96"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        subprocess.run(["uv", "venv", "-q", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run(["uv", "pip", "install", "-q", "--python", python, *REQUIREMENTS], check=True)
        complete.touch()
    return python


def benchmark(task: str, folder: Path, repeats: int, **options: float) -> dict:
    """Median seconds and peak memory of `train` or `test` below, on the arrays in the folder."""
    command = [environment(), __file__, task, folder, json.dumps({"repeats": repeats} | options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"thecannon failed to {task}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _load(folder: Path, name: str, rows: slice | list[int] = slice(None)) -> np.ndarray:
    return np.array(np.load(folder / f"{name}.npy", mmap_mode="r")[rows], dtype=float)


def _model(folder: Path, pixels: slice | list[int] = slice(None)):
    import thecannon  # Only this file's own environment has it.

    labels, exponents = _load(folder, "training_labels"), np.load(folder / "exponents.npy")
    vectorizer = thecannon.vectorizer.PolynomialVectorizer([f"label_{k}" for k in range(labels.shape[1])], 2)
    terms = [[(k, power) for k, power in enumerate(row) if power] for row in exponents[1:]]
    if terms != [sorted(term) for term in vectorizer.terms]:
        raise ValueError("the terms are ordered in another way")
    spectra = (
        np.array(np.load(folder / f"training_{name}.npy", mmap_mode="r")[:, pixels], float) for name in ("flux", "ivar")
    )
    return thecannon.CannonModel(labels, *spectra, vectorizer)


def train(folder: Path, regularization: float, pixels: list[int], repeats: int) -> list[float]:
    """Train some pixels; theta and s2 go into the folder."""
    times = []
    for _ in range(repeats):
        model = _model(folder, pixels)
        model.regularization = regularization
        start = perf_counter()
        theta, s2, _ = model.train()
        times.append(perf_counter() - start)
    np.savez(folder / "original_training.npz", theta=theta, s2=s2)
    return times


def test(folder: Path, spectra: int, repeats: int) -> list[float]:
    """Label the first spectra with the theta and s2 in the folder; the labels go there too."""
    model = _model(folder, [0])
    model._theta, model._s2 = _load(folder, "theta"), _load(folder, "s2")
    rows = slice(spectra)
    flux, ivar = _load(folder, "test_flux", rows), _load(folder, "test_ivar", rows)
    times = []
    for _ in range(repeats):
        start = perf_counter()
        labels, _, _ = model.test(flux, ivar)
        times.append(perf_counter() - start)
    np.save(folder / "original_labels.npy", labels)
    return times


if __name__ == "__main__":
    task, folder, options = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()):
        times = {"train": train, "test": test}[task](Path(folder), **json.loads(options))
    print(json.dumps({"seconds": float(np.median(times)), "memory": peak_gigabytes()}))
