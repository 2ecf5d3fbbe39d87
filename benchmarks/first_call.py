"""What the first call costs: a fresh process that imports, trains case A with 100 pixels, and ends.

uv run python benchmarks/first_call.py
"""

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from common import arguments, machine, measured, number, publish, seconds, table
from data import FULL, write_case

SCRIPT = """
import json, sys, time
begin = time.perf_counter()
import numpy as np
import jax
import bayes_cannon as tc
tc.CannonModel, tc.vectorizer.PolynomialVectorizer  # The package imports its parts when they are asked for.
imported = time.perf_counter()
spans = {"trace": [], "lower": [], "compile": []}
names = {"jaxpr_trace": "trace", "jaxpr_to_mlir_module": "lower", "backend_compile": "compile"}
def listen(event, duration, **_):
    now = time.perf_counter()
    for part, name in names.items():
        if part + "_duration" in event:
            spans[name].append((now - duration, now))
jax.monitoring.register_event_duration_secs_listener(listen)
folder, lam = sys.argv[1], float(sys.argv[2])
labels, flux, ivar = (np.load(f"{folder}/training_{name}.npy") for name in ("labels", "flux", "ivar"))
vectorizer = tc.vectorizer.PolynomialVectorizer([f"label_{k}" for k in range(labels.shape[1])], 2)
model = tc.CannonModel(labels, flux, ivar, vectorizer, regularization=lam)
ready = time.perf_counter()
model.train()
trained = time.perf_counter()
again = tc.CannonModel(labels, flux, ivar, vectorizer, regularization=lam)
warm = time.perf_counter()
again.train()
warm = time.perf_counter() - warm
print(json.dumps(dict(spans, imports=imported - begin, data=ready - imported, train=trained - ready, warm=warm)))
"""
"""Prints seconds of the imports, the model, the first and a second training, and the spans of JAX's work."""


def covered(spans: list[list[float]]) -> float:
    """Length of the union of the spans: a traced function that traces others counts once."""
    total, end = 0.0, 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def fresh(folder: Path, lam: float) -> dict:
    """Wall time of a fresh process until it has trained once, and its parts."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(lam)]
    wall, done = seconds(lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    run = json.loads(done.stdout.splitlines()[-1])
    parts = {name: covered(run[name]) for name in ("trace", "lower", "compile")}
    return run | parts | {"wall": wall - run["warm"]}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--stars", type=int, default=FULL["A"].stars)
    parser.add_argument("--pixels", type=int, default=100)
    given = parser.parse_args()
    size = replace(FULL["A"], stars=given.stars, pixels=given.pixels, spectra=1)
    repeats = given.repeats or 3
    names = ("wall", "imports", "data", "train", "trace", "lower", "compile", "warm")
    about, rows = measured(machine)["text"], []
    with tempfile.TemporaryDirectory() as temporary:
        measured(write_case, "A", Path(temporary), size)
        for lam in (0.0, 1000.0):
            runs = [fresh(Path(temporary), lam) for _ in range(repeats)]
            rows.append([f"{lam:g}", *(number(statistics.median(run[name] for run in runs)) for name in names)])
    header = [
        "Λ", "whole process, s", "imports, s", "reading, model, s",
        "first training, s", "of it tracing, s", "lowering, s", "compiling, s",
        "second training, s",
    ]  # fmt: skip
    what = (
        f"Case A with {size.pixels} pixels, {size.stars} stars. Medians of {repeats} fresh processes. The whole "
        "process is without the second training, but with the start and the end of Python. Compiling runs "
        "beside tracing where threads do both, so that the parts may add up to more than the training."
    )
    publish("first call", [about, what, table(header, rows)], write=given.write)


if __name__ == "__main__":
    main()
