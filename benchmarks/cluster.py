"""Labels of a store by several processes: how many a second, in how much memory, and what is left after kills.

    uv run python benchmarks/cluster.py --folder /scratch --stars 100000 --xp-stars 1000000

Two stores are simulated shard by shard: of APOGEE's 8,575 pixels with 5 labels, and of 296 pixels as Gaia XP has them
with 3 labels and a full covariance. Each is labelled by the arrays in memory (some of it), by one process, by workers
of Dask, and by workers of which one is killed some times; then by a command that is killed with all its processes and
run again. The labels must be the same. At the end stands how long 10^7 and 2.2e8 spectra take by these figures.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from common import arguments, machine, measured, number, publish, seconds, table

TRAINING = 2000
IN_MEMORY = 20_000
"""Spectra that are labelled in memory."""
COMMAND = (sys.executable, "-c", "from bayes_cannon.cli import main; main()")
EMPTY_SHARDS = 300
TURNS = 3
"""How often each is measured, in turn, because a computer is not always as fast; but for the run with kills."""
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Survey:
    """Spectra that are simulated."""

    name: str
    stars: int
    pixels: int
    labels: int
    shard: int
    full: bool

    @property
    def bytes_read(self) -> int:
        """Of a star: flux and ivar in float32."""
        return 8 * self.pixels


@dataclass(frozen=True)
class Measured:
    """What a star of a survey takes, as it was measured.

    Attributes
    ----------
    core_seconds
        Of a star by a worker on one core, with reading and writing.
    bytes_read, bytes_written
        Of a star, on the disk.
    export_seconds
        Of a star in the catalogue.
    shard
        Stars of a shard.

    """

    core_seconds: float
    bytes_read: float
    bytes_written: float
    export_seconds: float
    shard: int


@dataclass(frozen=True)
class Machine:
    """Where spectra are labelled: cores, and bytes a second of the disk that all share, and of a node's network."""

    name: str
    nodes: int
    cores: int
    disk: float
    network: float


MACHINES = (
    Machine("laptop", 1, 8, 1e9, np.inf),
    Machine("10 nodes", 10, 64, 10e9, 1.25e9),
    Machine("100 nodes", 100, 64, 10e9, 1.25e9),
)
"""What is assumed: an SSD of 1 GB/s; nodes of 64 cores on 10 Gbit/s, and a parallel file system of 10 GB/s."""
SURVEYS = (("10^7 of APOGEE's pixels", 10**7), ("2.2e8 of Gaia XP", 220_000_000))


def projected(stars: int, star: Measured, place: Machine, shard_seconds: float) -> dict[str, float]:
    """Seconds that each part takes by itself; the largest is the limit, but the catalogue comes after the rest."""
    moved = stars * (star.bytes_read + star.bytes_written)
    return {
        "computing": stars * star.core_seconds / (place.nodes * place.cores),
        "disk": moved / place.disk,
        "network": moved / (place.nodes * place.network),
        "scheduler": stars / star.shard * shard_seconds,
        "catalogue": stars * star.export_seconds,
    }


def scaling_table(stars: Sequence[Measured], shard_seconds: float) -> str:
    """Times of `SURVEYS` on `MACHINES` from what stars of each were measured to take."""
    rows = []
    for (name, n), star in zip(SURVEYS, stars, strict=True):
        for place in MACHINES:
            found = projected(n, star, place, shard_seconds)
            labelling = {part: value for part, value in found.items() if part != "catalogue"}
            limit = max(labelling, key=lambda part: labelling[part])
            hours = [number(value / 3600) for value in found.values()]
            rows.append([name, place.name, *hours, limit, number((labelling[limit] + found["catalogue"]) / 3600)])
    header = ["spectra", "machine", "computing, h", "disk, h", "network, h", "scheduler, h", "catalogue, h", "limit",
              "in all, h"]  # fmt: skip
    return table(header, rows)


@cache
def truth(survey: Survey) -> tuple:
    """Label names, coefficients and scatter of the simulated spectra."""
    from bayes_cannon.core.vectorizer import PolynomialVectorizer

    rng = np.random.default_rng(survey.pixels)
    vectorizer = PolynomialVectorizer([f"LABEL{k}" for k in range(survey.labels)], 2)
    shape = survey.pixels, vectorizer.n_terms
    theta = rng.normal(0, 0.02, shape) * (rng.random(shape) > 0.5)
    theta[:, 0] = 1
    return vectorizer, theta, np.full(survey.pixels, 0.005**2)


def drawn(survey: Survey, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, flux and ivar of some stars."""
    vectorizer, theta, s2 = truth(survey)
    rng = np.random.default_rng([seed, survey.pixels])
    labels = rng.uniform(-1, 1, (n, survey.labels))
    sigma = rng.uniform(0.005, 0.02, (n, 1))
    # From percentile to percentile, as the model scales them.
    flux = vectorizer(labels / 1.9).T @ theta.T
    noise = np.sqrt(sigma**2 + s2).astype(np.float32) * rng.standard_normal(flux.shape, dtype=np.float32)
    ivar = np.broadcast_to(sigma**-2, flux.shape)
    return labels, (flux + noise).astype(np.float32), ivar.astype(np.float32)


def write_model(survey: Survey, path: Path) -> dict:
    """A model of the spectra: the true coefficients, or a trained full covariance."""
    import bayes_cannon as tc

    labels, flux, ivar = drawn(survey, TRAINING, -1 % 2**32)
    vectorizer, theta, s2 = truth(survey)
    model = tc.CannonModel(
        labels, flux, ivar, vectorizer, dispersion=np.arange(survey.pixels) + 1.0,
        scatter=tc.scatter.Full() if survey.full else None,
    )  # fmt: skip
    if survey.full:
        model.train()
    else:
        model.use_theta(theta, s2)
    model.write(path)
    return {}


def write_store(survey: Survey, path: Path) -> dict:
    """Spectra shard by shard, as ``bayes-cannon ingest`` writes them."""
    from bayes_cannon.io.rows import Rows
    from bayes_cannon.io.unfinished_store import Plan, Progress, UnfinishedStore

    plan = Plan({}, ["simulated"], np.arange(survey.pixels) + 1.0, 1.0, survey.shard, None)
    store = UnfinishedStore.begin(path, plan)
    for number_of, first in enumerate(range(0, survey.stars, survey.shard)):
        n = min(survey.shard, survey.stars - first)
        _, flux, ivar = drawn(survey, n, number_of)
        names = np.array([f"{survey.name} {first + k}" for k in range(n)])
        store.write(Rows(flux, ivar, names, {}, {}), Progress(complete=first + n == survey.stars))
    store.finish(store.stars(), overwrite=False)
    os.sync()  # So that nothing is left to be written while others measure.
    return {}


def in_memory(store: str, model: str, stars: int) -> dict:
    """The engine alone, on arrays, with all cores; after a run that compiles."""
    import bayes_cannon as tc

    opened, trained = tc.io.open_store(store), tc.CannonModel.read(model)
    shards = [opened.shard(k) for k in range(min(opened.shards, -(-stars // opened.shard_size)))]
    flux, ivar = (np.concatenate([getattr(part, name) for part in shards]) for name in ("flux", "ivar"))
    trained.fit_labels(flux[: opened.shard_size], ivar[: opened.shard_size])
    time_taken, fit = seconds(lambda: trained.fit_labels(flux, ivar))
    return {"seconds": time_taken, "stars": len(flux), "labels": fit.labels}


def by_executor(store: str, model: str, out: str, workers: int, kills: int, limit: str) -> dict:
    """A run of `label_store`; ``kills`` times a worker is killed after it has done a shard."""
    import bayes_cannon as tc

    trained, killed, memory = tc.CannonModel.read(model), 0, dict[str, int]()
    shards = tc.io.open_store(store).shards
    done, failed, started = 0, 0, list[float]()
    executor = tc.execution.DaskExecutor(workers=workers, memory_limit=limit) if workers else (
        tc.execution.SerialExecutor()
    )  # fmt: skip

    def listen(event: object) -> None:
        nonlocal done, failed, killed
        failed += isinstance(event, tc.execution.ShardFailed)
        if not isinstance(event, tc.execution.ShardDone):
            return
        done += 1
        started.append(time.perf_counter())
        memory[event.worker] = max(memory.get(event.worker, 0), event.memory)
        if killed < kills and done > (killed + 1) * shards // (kills + 2) and event.worker in executor.workers:
            pid = executor._client.run(os.getpid, workers=[event.worker])[event.worker]
            os.kill(pid, signal.SIGKILL)
            killed += 1

    with executor:
        result = trained.label_store(store, out, executor=executor, listen=listen)
    # Without the first shards, in which programs are compiled.
    warm = max(workers, 1)
    rate = (done - warm) / (started[-1] - started[warm - 1]) if done > warm else np.nan
    return {
        "seconds": result.seconds, "rate": rate * tc.io.open_store(store).shard_size, "projected": result.plan.memory,
        "memories": list(memory.values()), "killed": killed, "failed": failed,
    }  # fmt: skip


def killed_run(store: Path, model: Path, out: Path, workers: int) -> tuple[int, int]:
    """Kill a command with all its processes when half of its shards are done, and run it again: shards left, kills."""
    import bayes_cannon as tc

    command = [*COMMAND, "infer", str(model), str(store), "-o", str(out), "--workers", str(workers), "--quiet"]
    shards, left = tc.io.open_store(store).shards, -1
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        time.sleep(0.1)
        if (out / "zarr.json").exists() and len(tc.io.open_labels(out).missing()) <= shards // 2:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            left = len(tc.io.open_labels(out).missing())
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return left, int(process.returncode == -signal.SIGKILL)


def largest_difference(one: Path, other: Path) -> float:
    """Of the labels of two stores, relative to the larger of both and one."""
    import bayes_cannon as tc

    stores = [tc.io.open_labels(path) for path in (one, other)]
    worst = 0.0
    for k in range(stores[0].shards):
        a, b = (store.read(k, ["labels"])["labels"] for store in stores)
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return np.inf
        worst = max(worst, float(np.nanmax(np.abs(a - b) / np.maximum(1.0, np.abs(b)), initial=0.0)))
    return worst


def exported(store: str, path: str) -> dict:
    """Time and memory of the catalogue."""
    import bayes_cannon as tc

    time_taken, _ = seconds(lambda: tc.io.export_labels(store, path))
    return {"seconds": time_taken, "bytes": Path(path).stat().st_size}


class Nothing:
    """Work that is none."""

    def read(self, number_of: int) -> int:
        """The number."""
        return number_of

    def compute(self, number_of: int, given: int) -> int:
        """One star."""
        return 1


def empty_shards(workers: int) -> dict:
    """Seconds of a shard without work: what the scheduler and the loop take."""
    import bayes_cannon as tc
    from bayes_cannon.execution.shards import run_shards

    with tc.execution.DaskExecutor(workers=workers) as executor:
        run_shards(Nothing(), range(10 * workers), executor)
        finished = run_shards(Nothing(), range(EMPTY_SHARDS), executor)
    return {"seconds": finished.seconds / EMPTY_SHARDS}


def size_of(folder: Path) -> int:
    """Bytes of all files of a store."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def memories(found: dict) -> str:
    """Peak of each worker, in GB."""
    return ", ".join(number(value / 1e9) for value in found["memories"])


def run(survey: Survey, place: Path, workers: int, kills: int, limit: str) -> tuple[list[list[str]], str, Measured]:
    """Rows of the table, remarks, and what a star takes."""
    store, model = place / f"{survey.name}.zarr", place / f"{survey.name}.model"
    measured(write_model, survey, model)
    measured(write_store, survey, store)
    labelled = min(IN_MEMORY, survey.stars)
    kinds = {"one process": (0, 0), f"{workers} workers": (workers, 0), "killed": (workers, kills)}
    rates, found, alone = dict[str, list[float]](), dict[str, dict](), {}
    for turn in range(TURNS):
        alone = measured(in_memory, str(store), str(model), labelled)
        rates.setdefault("memory", []).append(alone["stars"] / alone["seconds"])
        for what, (some, killed) in kinds.items():
            if killed and turn:
                continue
            out = place / f"{survey.name}-{what.split()[0]}.zarr"
            shutil.rmtree(out, ignore_errors=True)
            found[what] = measured(by_executor, str(store), str(model), str(out), some, killed, limit)
            rates.setdefault(what, []).append(found[what]["rate"])
    rate = {what: float(np.median(values)) for what, values in rates.items()}
    rows = [[survey.name, "arrays in memory", str(alone["stars"]), number(alone["stars"] / rate["memory"]),
             number(rate["memory"]), "1", number(alone["memory"]), "-"]]  # fmt: skip
    for what, one in found.items():
        shares = [number(a / b, 2) for a, b in zip(rates[what], rates["memory"], strict=False)]
        said = what if what != "killed" else f"{workers} workers, {one['killed']} killed"
        rows.append([survey.name, said, str(survey.stars), number(one["seconds"]), number(rate[what]),
                     ", ".join(shares), memories(one), number(one["projected"] / 1e9)])  # fmt: skip
    left, ended = killed_run(store, model, place / f"{survey.name}-again.zarr", workers)
    catalogue = measured(exported, str(place / f"{survey.name}-one.zarr"), str(place / f"{survey.name}.fits"))
    rows.append([survey.name, "catalogue in FITS", str(survey.stars), number(catalogue["seconds"]),
                 number(survey.stars / catalogue["seconds"]), "-", number(catalogue["memory"]), "-"])  # fmt: skip
    one = place / f"{survey.name}-one.zarr"
    others = [place / f"{survey.name}-{name}.zarr" for name in (f"{workers}", "killed", "again")]
    worst = max(largest_difference(one, other) for other in others)
    first = measured(first_labels, str(one), alone["stars"])["labels"]
    worst = max(worst, float(np.nanmax(np.abs(first - alone["labels"]), initial=0.0)))
    written, fits_size = size_of(one), catalogue["bytes"]
    judged, how = "right" if worst < TOLERANCE else "WRONG", "was killed" if ended else "ended before it was killed"
    note = (
        f"{survey.name}: labels of all runs differ by {worst:.1e} at most ({judged}); a command {how} with "
        f"{max(left, 0)} of {-(-survey.stars // survey.shard)} shards left, and run again. Spectra "
        f"{size_of(store) / 1e9:.3g} GB, labels {written / 1e9:.3g} GB, catalogue {fits_size / 1e9:.3g} GB; shards of "
        f"{survey.shard}."
    )
    core = workers / rate[f"{workers} workers"]
    star = Measured(
        core, size_of(store) / survey.stars, written / survey.stars, catalogue["seconds"] / survey.stars, survey.shard
    )
    return rows, note, star


def first_labels(store: str, n: int) -> dict:
    """Labels of the first stars."""
    import bayes_cannon as tc

    opened = tc.io.open_labels(store)
    parts = [opened.read(k, ["labels"])["labels"] for k in range(-(-n // opened.shard_size))]
    return {"labels": np.concatenate(parts)[:n]}


def main() -> None:
    """Print the tables, and exit with 1 if labels differ."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--stars", type=int, default=100_000)
    parser.add_argument("--pixels", type=int, default=8575)
    parser.add_argument("--shard", type=int, default=1024)
    parser.add_argument("--xp-stars", type=int, default=1_000_000)
    parser.add_argument("--xp-shard", type=int, default=16_384)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--memory-limit", default="auto", help="of a worker, such as '2 GB'")
    parser.add_argument("--folder", default=None, help="where the stores are written (10 GB, removed at the end)")
    given = parser.parse_args()
    about = measured(machine)["text"]
    surveys = (
        Survey("apogee", given.stars, given.pixels, 5, given.shard, full=False),
        Survey("xp", given.xp_stars, 296, 3, given.xp_shard, full=True),
    )
    header = ["spectra", "by", "stars", "seconds", "spectra a second, warm", "over memory, each time",
              "peak memory (GB)", "projected (GB)"]  # fmt: skip
    notes, stars = [], []
    for survey in surveys:
        with tempfile.TemporaryDirectory(dir=given.folder) as place:
            rows, note, star = run(survey, Path(place), given.workers, given.kills, given.memory_limit)
        publish(f"cluster {survey.name}", [about, table(header, rows), note], write=given.write)
        notes, stars = [*notes, note], [*stars, star]
    empty = measured(empty_shards, given.workers)["seconds"]
    assumed = f"Assumed: {'; '.join(map(str, MACHINES))}. A shard without work takes {1e3 * empty:.3g} ms."
    publish("cluster scaling", [assumed, scaling_table(stars, empty)], write=given.write)
    sys.exit(1 if any("WRONG" in note for note in notes) else 0)


if __name__ == "__main__":
    main()
