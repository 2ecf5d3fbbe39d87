"""Files of a survey into one store: how many a second, in how much memory, and what is left of runs that are killed.

    uv run python benchmarks/ingest.py --files 1000 --kills 10

The files are apStar files by SDSS's data model, of 8,575 pixels, three visits and some hundred cards of header. A
killed run is one of the command line, ended with all its processes by SIGKILL at a random moment; the next goes on with
its store. In the end it must be the store, bit by bit, of a run that was not killed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.io import fits
from common import arguments, machine, measured, median_seconds, number, publish, table

PIXELS, VISITS = 8575, 3
IMAGES = (
    "Flux (10^-17 erg/s/cm^2/Ang)", "Error (10^-17 erg/s/cm^2/Ang)", "Flag Mask (bitwise)", "Sky",
    "Sky error", "Telluric", "Telluric error",
)  # fmt: skip
CARDS = (
    "DATE",
    "JD",
    "HJD",
    "FIBER",
    "BC",
    "VTYPE",
    "VRAD",
    "VERR",
    "VHELIO",
    "RVTEFF",
    "RVLOGG",
    "RVFEH",
    "SNRVIS",
    "FLAG",
)
COMMAND = (sys.executable, "-c", "from bayes_cannon.cli import main; main()", "ingest", "--quiet")


def write_file(path: Path, seed: int) -> None:
    """One apStar file."""
    rng = np.random.default_rng(seed)
    rows = VISITS + 2
    primary = fits.PrimaryHDU()
    primary.header.update(OBJID=f"2M{seed:08d}+0000000", NVISITS=VISITS, SNR=100.0, VHELIO=5.0, J=11.0, H=10.5, K=10.4)
    for visit in range(1, VISITS + 1):
        for card in CARDS:
            primary.header[f"{card}{visit}"] = (1.5 * visit, f"{card} of visit {visit}")
    for k in range(50):
        primary.header[f"OTHER{k}"] = (float(k), "another card")
    hdus = [primary]
    for unit in IMAGES:
        values = rng.uniform(50, 150, (rows, PIXELS)).astype(np.float32)
        image = fits.ImageHDU(np.zeros((rows, PIXELS), np.int16) if "Mask" in unit else values)
        image.header.update(CRVAL1=4.179, CDELT1=6e-6, CRPIX1=1, CTYPE1="LOG-LINEAR", BUNIT=unit)
        hdus.append(image)
    columns = [
        fits.Column(f"C{k}", f"{n}E", array=np.zeros((1, n), np.float32)) for k, n in enumerate([1] * 20 + [401] * 6)
    ]
    fits.HDUList([*hdus, fits.ImageHDU(np.zeros(26)), fits.BinTableHDU.from_columns(columns)]).writeto(path)


def run(folder: Path, store: Path, workers: int) -> None:
    """The command."""
    subprocess.run(
        [*COMMAND, str(folder), str(store), "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL
    )


def ingested(folder: str, store: str, workers: int, repeats: int) -> dict:
    """Median time of the command."""

    def once() -> None:
        shutil.rmtree(store, ignore_errors=True)
        run(Path(folder), Path(store), workers)

    return {"seconds": median_seconds(once, repeats)[0]}


def in_process(folder: str, store: str) -> dict:
    """Time without the start of processes, for the memory of a process that reads and writes."""
    from bayes_cannon.io.ingestion import ingest

    start = time.perf_counter()
    ingest(folder, store)
    return {"seconds": time.perf_counter() - start}


def kills(folder: Path, place: Path, times: int, longest: float, workers: int) -> tuple[int, bool]:
    """How many runs were killed, and whether the store is the same as that of one that was not."""
    whole, store, killed, chance = place / "whole.zarr", place / "killed.zarr", 0, random.Random(0)
    run(folder, whole, workers)
    while killed < times:
        command = [*COMMAND, str(folder), str(store), "--workers", str(workers)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(chance.uniform(0.2, 1.0) * longest)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        else:
            if killed < times and same(whole, store):
                shutil.rmtree(store)
            else:
                break
    if not store.exists():
        run(folder, store, workers)
    return killed, same(whole, store) and not Path(f"{store}.unfinished").exists()


def same(one: Path, other: Path) -> bool:
    """Whether two stores have the same files with the same bytes."""
    contents = [
        {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}
        for store in (one, other)
    ]
    return contents[0] == contents[1]


def main() -> None:
    """Print a table, and exit with 1 if a killed run gave another store."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    about = measured(machine)["text"]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = place / "files"
        folder.mkdir()
        for k in range(options.files):
            write_file(folder / f"apStar-{k:06d}.fits", k)
        store, rows, longest = place / "store.zarr", [], 0.0
        cores = os.cpu_count() or 1
        for workers in (1, cores):
            found = ingested(str(folder), str(store), workers, options.repeats or 3)
            longest = found["seconds"]
            rows.append(
                [f"command, {workers} processes that read", number(longest), number(options.files / longest), "-"]
            )
        shutil.rmtree(store)
        found = measured(in_process, str(folder), str(store))
        seconds = found["seconds"]
        rows.append(
            ["`ingest` in one process", number(seconds), number(options.files / seconds), number(found["memory"])]
        )
        killed, right = kills(folder, place, options.kills, longest, cores)
    said = f"{killed} runs killed at random moments: the store is {'the same, bit by bit' if right else 'ANOTHER'}."
    lines = table(["", "seconds", "files a second", "peak memory (GB)"], rows)
    publish("ingest", [about, f"{options.files} apStar files of {PIXELS} pixels.", lines, said], write=options.write)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
