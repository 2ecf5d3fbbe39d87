"""What readers do with damaged files, and what is left of writes that are killed.

    uv run python benchmarks/fuzz_files.py --mutants 200 --kills 40

A mutant is a good file of which a bit is flipped, a block is zeroed or overwritten, or the end or a whole file (of a
store) is gone. It is read by another process with a limit on its time. The right answers are an error (a ValueError or
FileNotFoundError that names the file) and the same contents as before; a crash, a hang, another error or other contents
are faults. Recipes have no checksum: other contents are counted and are no fault.

A killed write is one over an existing file, ended by SIGKILL at a random moment. Afterwards the old or the new contents
must be there, and after the next write no other file. A killed run that fills a posterior store goes on, and must end
with the same draws as one that was not killed.
"""

import argparse
import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 90.0
KINDS = ("m.model", "s.nc", "s.npz", "s.zarr", "p.zarr", "r.toml")
KILLED = ("m.model", "s.nc", "s.npz", "s.zarr", "p.zarr")
FAULTS = ("crash", "hang", "other error", "other contents")
N_PIXELS, N_DRAWS, BLOCK = 12, 20, 4
_RECIPE = """name = "mine"
[model]
label_names = ["TEFF", "LOGG"]
order = 2
[data]
spectra = "s.nc"
[data.cuts]
TEFF = { above = 4000.0, below = 5300.0 }
[validation]
folds = 5
"""


def _numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _model(seed: int) -> Any:
    import bayes_cannon as tc

    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 2)
    spectra = _numbers(seed, 20, 100), np.exp(_numbers(seed + 1, 20, 100))
    model = tc.CannonModel(_numbers(seed + 2, 20, 2), *spectra, vectorizer, dispersion=np.arange(100.0))
    model.use_theta(_numbers(seed + 3, 100, 6), np.exp(_numbers(seed + 4, 100)))
    return model


def _subject() -> Any:
    from bayes_cannon.io.posterior_tree import Subject

    settings = {"method": "nuts", "n_chains": 2, "n_draws": N_DRAWS, "key": "0"}
    flux = _numbers(0, 5, N_PIXELS)
    return Subject(
        np.arange(N_PIXELS), ["1", "A"], ("A",), {"A": "K"}, None, flux, flux**2, {}, settings, {"theta": "x"}
    )


def _blocks() -> list[Any]:
    from bayes_cannon.posterior.theta.sample import ThetaBlock
    from bayes_cannon.posterior.theta.summary import ThetaPosterior

    blocks = []
    for start in range(0, N_PIXELS, BLOCK):
        posterior = ThetaPosterior.empty(BLOCK, 2, np.zeros(BLOCK, dtype=int))
        theta, s = _numbers(start, 2, N_DRAWS, BLOCK, 2), np.exp(_numbers(start + 1, 2, N_DRAWS, BLOCK))
        posterior.mean[:], posterior.s[:] = theta.mean(axis=(0, 1)), s.mean(axis=(0, 1))[:, None]
        blocks.append(ThetaBlock(np.arange(start, start + BLOCK), posterior, theta, s, {"energy": s}))
    return blocks


def _fill(path: Path) -> None:
    """Open a posterior store, new or of a run that was killed, and write what it lacks."""
    from bayes_cannon.io.posterior_store import StoredPosterior

    store = StoredPosterior.open(path, _subject(), keep_draws=True, block=BLOCK)
    done = store.resumable
    for block in _blocks():
        if not done[block.pixels].all():
            store.write(block)


def write(path: Path, seed: int = 0) -> None:
    """A file of the kind that its name says; a posterior store goes on."""
    from bayes_cannon.io.spectra import Spectra, write_spectra

    if path.name == "r.toml":
        path.write_text(_RECIPE)
    elif path.name == "m.model":
        _model(seed).write(path, overwrite=True, include_training_set_spectra=True)
    elif path.name == "p.zarr":
        _fill(path)
    else:
        labels = {"TEFF": _numbers(seed + 1, 20)}
        spectra = Spectra(
            _numbers(seed, 20, 30), np.ones((20, 30)), np.arange(30.0), labels=labels, units={"TEFF": "K"}
        )
        write_spectra(path, spectra, overwrite=True)


def contents(path: Path) -> str:
    """A hash of all that a reader makes of a file."""
    from bayes_cannon.core.records import stored_fields
    from bayes_cannon.io import read_spectra
    from bayes_cannon.io.posterior_tree import read_posterior, theta_posterior
    from bayes_cannon.io.recipe import read_recipe
    from bayes_cannon.model.files import read_model

    if path.name == "r.toml":
        parts: list[Any] = [repr(read_recipe(path))]
    elif path.name == "m.model":
        found = read_model(path)
        stars = found.stars
        parts = [stars.labels, stars.flux, stars.ivar, stars.dispersion, stars.scaling.scale, found.result.theta]
        parts += [found.result.s2, stars.vectorizer.readable_terms]
        parts += [[repr(getattr(found.settings, one.name)) for one in stored_fields(found.settings)], found.provenance]
        parts[-1] = {name: text for name, text in found.provenance.items() if name != "created"}
    elif path.name == "p.zarr":
        with read_posterior(path) as tree:
            tree.load()
            parts = [repr(tree.attrs), theta_posterior(tree, N_PIXELS).mean]
            for node in sorted(tree.subtree, key=lambda node: node.path):
                for name, values in sorted(node.to_dataset(inherit=False).variables.items()):
                    parts += [node.path, name, values.to_numpy(), sorted(map(str, values.attrs.items()))]
    else:
        one = read_spectra(path)
        parts = [one.flux, one.ivar, one.wavelength, one.ids, dict(one.units), dict(one.attrs)]
        parts += [part for name in sorted(one.labels) for part in (name, one.labels[name])]
    digest = sha256()
    for part in parts:
        plain = isinstance(part, np.ndarray) and part.dtype.kind in "biuf"
        digest.update(part.tobytes() if plain else repr(part.tolist() if hasattr(part, "tolist") else part).encode())
    return digest.hexdigest()


def answer(path: Path) -> str:
    """The hash, or in one line what was raised, marked as an error that is right or another one."""
    try:
        return contents(path)
    except (ValueError, FileNotFoundError) as error:
        named = "error" if str(path) in str(error) else "other error"
        return f"{named}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    except BaseException as error:  # noqa: BLE001 - whatever a reader raises is the answer
        return f"other error: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Reader:
    """A process that reads one file after the other, and is started anew when it dies or hangs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def read(self, path: Path) -> str:
        """What `answer` says there, ``crash`` or ``hang``."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--reader"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, bufsize=1,
            )  # fmt: skip
        process = self._process
        process.stdin.write(f"{path}\n")
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline().strip() if selector.select(SECONDS) else "hang"
        if line in ("", "hang"):
            self.close()
        return line or "crash"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _serve() -> None:
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        print(answer(Path(line.strip())), flush=True)


def mutate(good: Path, path: Path, chance: random.Random) -> str:
    """Make of a good file or store one with one fault; says which."""
    if good.is_dir():
        shutil.copytree(good, path)
        files = sorted(one for one in path.rglob("*") if one.is_file())
        path = chance.choice(files)
    else:
        shutil.copy(good, path)
    data = bytearray(path.read_bytes())
    place, kind = chance.randrange(len(data)), chance.choice(("flip", "zero", "random", "cut"))
    size = chance.choice((16, 64, 256, 512))
    if kind == "flip":
        data[place] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[place:]
    else:
        size = min(size, len(data) - place)
        data[place : place + size] = bytes(size) if kind == "zero" else chance.randbytes(size)
    path.write_bytes(data)
    if kind == "cut" and good.is_dir() and chance.random() < 0.5:
        path.unlink()
        kind = "lost"
    return f"{kind} at byte {place} of {path.name}"


def mutants(kind: str, number: int, seed: int = 0, say: Callable[[str], None] = print) -> Counter[str]:
    """How many mutants of a kind of file were answered in what way."""
    chance, counts, reader = random.Random(f"{kind} {seed}"), Counter[str](), Reader()
    with tempfile.TemporaryDirectory() as folder:
        good, path = Path(folder, "good", kind), Path(folder, "bad", kind)
        good.parent.mkdir()
        write(good)
        right = reader.read(good)
        if ":" in right:
            raise RuntimeError(f"the good file {kind} is not read: {right}")
        for _ in range(number):
            path.parent.mkdir()
            what = mutate(good, path, chance)
            found = reader.read(path)
            same = "same contents" if found == right else "other contents"
            name = found.split(":")[0] if ":" in found or found in FAULTS else same
            counts[name] += 1
            if name in FAULTS and kind != "r.toml":
                say(f"  {kind}: {what}: {found}")
            shutil.rmtree(path.parent)
    reader.close()
    return counts


def _in_child(work: Callable[[], Any], seconds: float | None = None) -> int:
    """Exit status of a child of this process that does some work, and is killed after some time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Threads of libraries do nothing here while it is made.
        child = os.fork()
    if child == 0:
        warnings.simplefilter("ignore")
        try:
            os._exit(0 if work() in (None, True) else 3)
        except BaseException as error:  # noqa: BLE001 - whatever a reader raises is the answer
            print(f"  {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(4)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kills(kind: str, number: int, seed: int = 0) -> Counter[str]:
    """How many killed writes left the old or the new contents, and nothing else after the next write."""
    chance, counts = random.Random(f"{kind} {seed}"), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        path, other = Path(folder, kind), Path(folder, "other", kind)
        other.parent.mkdir()
        start = time.perf_counter()
        _in_child(lambda: write(other, 1))
        longest = time.perf_counter() - start
        _in_child(lambda: write(path, 0))
        for _ in range(number):
            if kind == "p.zarr":
                shutil.rmtree(path, ignore_errors=True)
            killed = _in_child(lambda: write(path, 1), chance.uniform(0, longest)) == -signal.SIGKILL
            counts["killed" if killed else "written before"] += 1
            if kind == "p.zarr":
                whole = _in_child(lambda: write(path) or contents(path) == contents(other)) == 0
            else:
                whole = _in_child(lambda: contents(path) is not None) == 0
                whole &= _in_child(lambda: write(path, 0)) == 0
            counts["other contents"] += not whole
            left = {entry.name for entry in Path(folder).iterdir()} - {kind, "other"}
            left |= {entry.name for entry in path.rglob("*.partial")} if path.is_dir() else set()
            counts["left behind"] += len(left)
    return counts


def main() -> None:
    """Print a table, and exit with 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=100, help="of each kind of file")
    parser.add_argument("--kills", type=int, default=20, help="of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        _serve()
        return
    faults = 0
    for kind in KINDS:
        counts = mutants(kind, options.mutants, options.seed)
        print(f"{kind:8s} {options.mutants} mutants:", dict(sorted(counts.items())), flush=True)
        faults += sum(counts[name] for name in FAULTS if kind != "r.toml" or name != "other contents")
    for kind in KILLED:
        counts = kills(kind, options.kills, options.seed)
        print(f"{kind:8s} {options.kills} writes:", dict(counts), flush=True)
        faults += counts["other contents"] + counts["left behind"]
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
