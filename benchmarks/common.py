"""What the benchmark scripts share: child processes with their peak memory, timing, the floor, and tables."""

import argparse
import importlib.metadata
import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import numpy as np
from memory import OwnMemory, peak_gigabytes

RESULTS = Path(__file__).parent / "RESULTS.md"
FLOOR_ROWS = 1024
"""Rows of the product that the floor is measured on."""
FLOOR_REPEATS = 5
PASSES = 8
"""Passes over the data that the floor of training counts."""


def measured(function: Callable, *args: Any, **kwargs: Any) -> dict:
    """What the function returns in a fresh process, which is a dict, with its peak memory in gigabytes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_memory, function, args, kwargs).result()


def _with_memory(function: Callable, args: tuple, kwargs: dict) -> dict:
    own = OwnMemory()
    own.start()
    result = function(*args, **kwargs)
    return result | {"own_memory": own.stop(), "memory": peak_gigabytes()}


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of one call and what it returned."""
    start = perf_counter()
    result = function()
    return perf_counter() - start, result


def median_seconds(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median wall time of several calls, and what the last one returned."""
    runs = [seconds(function) for _ in range(repeats)]
    return statistics.median(time for time, _ in runs), runs[-1][1]


def product_floor(rows: int, inner: int, columns: int, dtype: Any) -> float:
    """Seconds of the bare product of (rows, inner) with (inner, columns): the faster of NumPy's and JAX's.

    Measured on at most `FLOOR_ROWS` rows, a median of several, and scaled up.
    """
    rng = np.random.default_rng(0)
    some = min(rows, FLOOR_ROWS)
    left, right = rng.random((some, inner), dtype=dtype), rng.random((inner, columns), dtype=dtype)
    with jax.enable_x64(True):
        on_device = jax.device_put(left), jax.device_put(right)
        product = jax.jit(lambda a, b: a @ b)
        product(*on_device).block_until_ready()
        by_jax, _ = median_seconds(lambda: product(*on_device).block_until_ready(), FLOOR_REPEATS)
    by_numpy, _ = median_seconds(lambda: left @ right, FLOOR_REPEATS)
    return min(by_jax, by_numpy) * rows / some


def training_floor(n_stars: int, n_pixels: int, n_moments: int) -> dict:
    """Eight passes of weights (pixel, star) times moments (star, moment) in float64, which training uses."""
    return {"seconds": PASSES * product_floor(n_pixels, n_stars, n_moments, np.float64)}


def labelling_floor(n_stars: int, n_pixels: int, n_moments: int, n_terms: int, dtype: Any) -> dict:
    """Weights (star, pixel) times tables (pixel, moment) in this dtype, and times theta (pixel, term) in float64."""
    table = product_floor(n_stars, n_pixels, n_moments, dtype)
    return {"seconds": table + product_floor(n_stars, n_pixels, n_terms, np.float64)}


def machine() -> dict:
    """One paragraph on the machine and the versions; run it in a child, because JAX takes hold of a GPU."""
    processor, information = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if information.exists():
        processor = re.search(r"model name\s*: (.*)", information.read_text() + "\nmodel name: " + processor)[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "numpy", "scipy"))
    device = jax.devices()[0]
    accelerator = "" if device.platform == "cpu" else f" JAX computes on {device.device_kind}."
    return {
        "text": f"{processor}, {os.cpu_count()} cores, {memory:.0f} GB; Python {platform.python_version()}, {versions}"
        f"; load average {os.getloadavg()[0]:.1f} at the start.{accelerator}"
    }


def worst(values: np.ndarray) -> float:
    """The largest, NaN apart; minus infinity where there is none, which `number` shows as a dash."""
    return float(np.nanmax(values, initial=-np.inf))


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.{digits}g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def publish(name: str, parts: Sequence[str], *, write: bool) -> None:
    """Print the parts, and with ``write`` put them into RESULTS.md at the place of this name."""
    command = "uv run python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    text = "\n\n".join([f"`{command}`", *parts])
    print(text)
    if write:
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, rest = RESULTS.read_text().split(begin)
        RESULTS.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what every script understands."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--write", action="store_true", help="also put the tables into RESULTS.md")
    parser.add_argument("--repeats", type=int, default=None, help="runs that the median is of")
    return parser
