"""The same programs on a GPU and on the processors of the same machine: training, path, labelling and posteriors.

Case A where nothing else is said.

uv run --extra cuda python benchmarks/gpu.py

Each piece of work runs in a process of its own, once for each platform, and has a time limit, so that the whole ends
within ten minutes wherever it runs. Results are compared between the platforms: the same optimum is asked of both.
"""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import labelling
import numpy as np
import path
import posterior_labels
import posterior_theta
import training
from common import arguments, machine, measured, median_seconds, number, publish, seconds, table, worst
from data import FULL, write_case
from posterior_labels import NOISE, Spectra
from scipy.ndimage import gaussian_filter1d

import bayes_cannon as tc
from bayes_cannon.core.status import StarStatus
from bayes_cannon.labelling.fit import fit_labels

PLATFORMS = ("cuda", "cpu")
TIME_LIMIT = 60.0
"""Seconds of one piece of work on one platform."""
TOTAL = 540.0
"""Seconds after which nothing more is begun."""
CASE_B = replace(FULL["B"], pixels=2_144, spectra=1)
"""A quarter of the pixels."""
XP_LIKE = 3, 296, 100_000
"""Labels, pixels and spectra of the labelling with the full covariance."""


@dataclass(frozen=True)
class Work:
    """A piece of work: what it is, what it calls, and the figures of its result that say how good the result is."""

    name: str
    function: Callable[..., dict]
    figures: tuple[str, ...]


def on_platform(work: Work, platform: str, limit: float) -> dict:
    """Result of a fresh process on this platform; ``{"failed": why}`` where it raised an error or took too long."""
    os.environ |= {"JAX_PLATFORMS": platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        future = pool.submit(work.function)
        try:
            return future.result(timeout=limit)
        except TimeoutError:
            for process in list(pool._processes.values()):
                process.kill()
            return {"failed": f"more than {limit:.0f} s"}
        except Exception as error:  # noqa: BLE001 - shown in the table: the other pieces of work still count
            return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}


def full_covariance(n_labels: int, n_pixels: int, n_spectra: int, repeats: int) -> dict:
    """Label spectra in float32 whose scatter is correlated between neighbouring pixels, as that of Gaia XP is."""
    drawn = Spectra.drawn(n_labels, n_pixels, 2 * n_pixels)
    rng, names = np.random.default_rng(1), drawn.vectorizer.label_names
    training, x = drawn.training[: len(drawn.flux)], rng.normal(0, 0.25, (n_spectra, n_labels))

    def spectra(labels: np.ndarray) -> np.ndarray:
        scatter = gaussian_filter1d(rng.normal(0, 2 * NOISE, (len(labels), n_pixels)), 2)
        flux = drawn.vectorizer(labels).T @ drawn.theta.T
        return (flux + scatter + rng.normal(0, NOISE, flux.shape)).astype("f4")

    flux, some = spectra(x), spectra(training)
    ivar = np.full(flux.shape, NOISE**-2, "f4")
    family = tc.scatter.Full(shrinkage=0.1)
    model = tc.CannonModel(
        training, some, ivar[: len(some)], tc.vectorizer.PolynomialVectorizer(names, 2), scatter=family
    )
    model.train()
    trained = model._label_model()
    first, _ = seconds(lambda: fit_labels(trained, flux, ivar))
    time, fit = median_seconds(lambda: fit_labels(trained, flux, ivar), repeats)
    solved = np.isin(fit.status, [status for status in StarStatus if status.has_solution])
    return {"seconds": time, "first": first, "decrement": worst(fit.decrement), "unfinished": int((~solved).sum())}


def pieces(folder: Path, spectra: int, repeats: int) -> list[Work]:
    """What is run, the most important first."""
    size = replace(FULL["A"], spectra=spectra)
    quality = ("gap", "gradient", "unfinished")
    lambdas = np.geomspace(1, 1e6, 20)
    return [
        Work("training, Λ = 0", partial(training.ours, folder, size, 0.0, repeats, size.pixels), quality),
        Work("training, Λ = 1000", partial(training.ours, folder, size, 1000.0, repeats, size.pixels), quality),
        Work(
            f"labelling of {spectra} spectra",
            partial(labelling.ours, folder, size, repeats, spectra),
            ("decrement", "unfinished"),
        ),
        Work(
            "labelling of {2:,} spectra, {1} pixels, {0} labels, full covariance".format(*XP_LIKE),
            partial(full_covariance, *XP_LIKE, repeats), ("decrement", "unfinished"),
        ),
        Work("posterior of labels, 1,000 stars, 3 labels", partial(posterior_labels.ours, 3, 296, 1000, 1),
             ("worst", "r_hat", "flagged")),
        Work("posterior of theta, 128 pixels by psis", partial(posterior_theta.ours, "A", 128, "psis"),
             ("k_hat", "flagged")),
        Work("posterior of theta, 128 pixels by NUTS", partial(posterior_theta.ours, "A", 128, "nuts"),
             ("smallest", "r_hat", "flagged")),
        Work("path of 20 Λ", partial(path.path, folder, size, lambdas, 1), ()),
        Work(
            f"case B: training, Λ = 1000, {CASE_B.pixels:,} pixels",
            partial(training.ours, folder / "B", CASE_B, 1000.0, 1, CASE_B.pixels), quality,
        ),
    ]  # fmt: skip


def row(work: Work, results: dict[str, dict]) -> list[str]:
    """Times on both platforms and their ratio; then the figures of each result."""
    times = {name: result.get("seconds") for name, result in results.items()}
    known = all(time is not None for time in times.values())
    ratio = times["cpu"] / times["cuda"] if known else None
    figures = [
        result.get("failed") or ", ".join(f"{name} {number(result[name])}" for name in work.figures) or "-"
        for result in results.values()
    ]
    firsts = [number(result.get("first")) for result in results.values()]
    return [work.name, *(number(time) for time in times.values()), number(ratio), *firsts, *figures]


HEADER = ["work", "GPU, s", "CPU, s", "CPU / GPU", "first run, GPU, s", "first run, CPU, s", "GPU", "CPU"]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--limit", type=float, default=TIME_LIMIT, help="seconds of one piece of work on a platform")
    parser.add_argument("--total", type=float, default=TOTAL, help="seconds after which nothing more is begun")
    parser.add_argument("--only", default="", help="only the pieces of work whose name holds this")
    given = parser.parse_args()
    start, rows = perf_counter(), []
    about = measured(machine)["text"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["JAX_PLATFORMS"] = "cpu"
        measured(write_case, "A", folder, replace(FULL["A"]))
        measured(labelling.write_theta, folder, FULL["A"])
        (folder / "B").mkdir()
        measured(write_case, "B", folder / "B", CASE_B)
        for work in pieces(folder, FULL["A"].spectra, given.repeats or 3):
            if given.only not in work.name or perf_counter() - start > given.total:
                continue
            results = {platform: on_platform(work, platform, given.limit) for platform in PLATFORMS}
            rows.append(row(work, results))
            print(" | ".join(rows[-1]), flush=True)
    what = "Each in a process of its own; median of warm runs. Spectra lie in the host's memory and are sent each time."
    publish("gpu", [about, what, table(HEADER, rows)], write=given.write)


if __name__ == "__main__":
    main()
