"""Training from a store that does not fit the memory, beside the same training in memory.

uv run python benchmarks/store_training.py
uv run python benchmarks/store_training.py --stars 5000
"""

import tempfile
from pathlib import Path

import numpy as np
import zarr
from common import arguments, machine, measured, number, publish, seconds, table

import bayes_cannon as tc
from bayes_cannon.io.unfinished_store import SHARD
from bayes_cannon.io.zarr_files import seal_store, spectra_codecs

NAMES = ("TEFF", "LOGG", "FE_H", "ALPHA_FE", "VMACRO")
VECTORIZER = tc.vectorizer.PolynomialVectorizer(NAMES, 2)
CHUNK = 64


def write_store(folder: Path, n_stars: int, n_pixels: int) -> dict:
    """A store as the command ingest writes it, of stars drawn from a quadratic model; labels beside it."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 0.5, (n_stars, len(NAMES)))
    theta = rng.normal(0, 0.03, (n_pixels, VECTORIZER.n_terms)) * (rng.random((n_pixels, VECTORIZER.n_terms)) < 0.5)
    theta[:, 0], s = 1, rng.uniform(0, 0.01, n_pixels)
    root = zarr.open_group(folder / "s.zarr", mode="w", zarr_format=3)
    arrays = {
        name: root.create_array(
            name, shape=(n_stars, n_pixels), chunks=(CHUNK, n_pixels), shards=(SHARD, n_pixels), dtype="float32",
            fill_value=0, dimension_names=("star", "pixel"), compressors=spectra_codecs(),
        )
        for name in ("flux", "ivar")
    }  # fmt: skip
    wavelength = root.create_array("wavelength", shape=(n_pixels,), dtype=float, dimension_names=("pixel",))
    wavelength[:] = np.linspace(15100, 17000, n_pixels)
    for first in range(0, n_stars, SHARD):
        some = slice(first, min(first + SHARD, n_stars))
        sigma = rng.uniform(1 / 300, 1 / 75, (some.stop - first, 1)) * rng.uniform(0.9, 1.1, (1, n_pixels))
        flux = VECTORIZER(x[some]).T @ theta.T
        arrays["flux"][some] = flux + np.hypot(sigma, s) * rng.normal(size=sigma.shape)
        arrays["ivar"][some] = sigma**-2
    seal_store(folder / "s.zarr")
    np.save(folder / "labels.npy", x)
    return {}


def model(folder: Path, flux: np.ndarray | None = None, ivar: np.ndarray | None = None) -> tc.CannonModel:
    return tc.CannonModel(np.load(folder / "labels.npy"), flux, ivar, VECTORIZER)


def in_memory(folder: Path, regularization: float) -> dict:
    """Read all of it, train, and hash the training set, as writing the model does."""

    def train() -> tc.CannonModel:
        spectra = tc.io.read_spectra(folder / "s.zarr")
        whole = model(folder, spectra.flux, spectra.ivar)
        whole.regularization = regularization
        whole.train()
        whole._remember_spectra()
        return whole

    time, trained = seconds(train)
    np.savez(folder / "memory.npz", theta=trained.theta, s2=trained.s2)
    return {"seconds": time}


def from_store(folder: Path, regularization: float, memory: str, workers: int = 0) -> dict:
    """Train from the store, and compare with the training in memory where there was one."""
    trained, store = model(folder), tc.io.open_store(folder / "s.zarr")
    trained.regularization = regularization
    executor = tc.execution.DaskExecutor(workers=workers, memory_limit=memory) if workers else None
    # A worker begins nothing more at four fifths of its memory, and by default the plan keeps to that.
    limits = {"memory": memory} if executor is None else {"executor": executor}
    plan = trained.plan_store(store, **limits)
    peaks = dict[str, int]()

    def listen(event: object) -> None:
        if isinstance(event, tc.execution.ShardDone):
            peaks[event.worker] = max(peaks.get(event.worker, 0), event.memory)

    time, _ = seconds(lambda: trained.train_store(store, **limits, listen=listen))
    if executor is not None:
        executor.close()
    result = {"seconds": time, "plan": str(plan), "planned": plan.peak_memory / 1e9, "peak": max(peaks.values()) / 1e9}
    if (folder / "memory.npz").exists():
        with np.load(folder / "memory.npz") as other:
            result["difference"] = float(np.nanmax(np.abs(trained.theta - other["theta"])))
            result["other_pixels"] = int((trained.theta != other["theta"]).any(axis=1).sum())
    return result


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--stars", type=int, default=20_000)
    parser.add_argument("--pixels", type=int, default=8_575)
    parser.add_argument("--memory", default="2 GB", help="limit of the training from the store")
    parser.add_argument("--regularization", type=float, default=0.0)
    parser.add_argument("--workers", type=int, default=2, help="processes of the last training; 0 leaves it out")
    parser.add_argument("--without-memory", action="store_true", help="leave the training in memory out")
    given = parser.parse_args()
    about = measured(machine)["text"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measured(write_store, folder, given.stars, given.pixels)
        whole = None if given.without_memory else measured(in_memory, folder, given.regularization)
        stores = {"from the store": measured(from_store, folder, given.regularization, given.memory)}
        if given.workers:
            said = f"from the store by {given.workers} workers"
            stores[said] = measured(from_store, folder, given.regularization, given.memory, given.workers)
    rows = [] if whole is None else [
        ["in memory", number(whole["seconds"]), "-", number(whole["own_memory"]), "-", "-"]
    ]  # fmt: skip
    for said, store in stores.items():
        ratio = None if whole is None else store["seconds"] / whole["seconds"]
        difference = f"{store['difference']:.2g}, {store['other_pixels']} pixels" if whole is not None else "-"
        rows.append([said, number(store["seconds"]), number(ratio), number(store["peak"]), number(store["planned"]),
                     difference])  # fmt: skip
    what = (
        f"{given.stars} stars x {given.pixels} pixels, five labels, {VECTORIZER.n_terms} terms, "
        f"Λ = {given.regularization:g}; reading, compilation and the hash of the training set included. "
        f"The plan: {stores['from the store']['plan']}."
    )
    header = ["training", "time, s", "over that in memory", "peak memory of a process, GB", "planned, GB",
              "theta differs from that in memory by"]  # fmt: skip
    publish("store training", [about, what, table(header, rows)], write=given.write)


if __name__ == "__main__":
    main()
