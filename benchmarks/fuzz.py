"""What the public functions do with odd arguments.

    uv run python benchmarks/fuzz.py --minutes 5
    uv run python benchmarks/fuzz.py --calls 20000 --seed 3
    uv run python benchmarks/fuzz.py --seed 3 --number 1234

A call is one of a public function with valid arguments of which one, sometimes two, are replaced by others: of another
shape, type, container or value. The right answers are a result and an error in words of the package's own; an exception
of Python or of a library is a fault, as are an argument that is changed in place, a call that does not end, and a
result that is another one for a copy of the same numbers (strided, read-only, of another byte order, lists). At the
end come the properties that results have whatever the numbers: order of stars and pixels, units, ivar = 0.

A call depends on the seed and its number only. The calls are made by another process, which a crash or a hang ends.
"""

import argparse
import dis
import os
import random
import selectors
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np
from fuzz_targets import INVARIANCES, Target, files, targets
from fuzz_values import SAME, leaves, odd

import bayes_cannon as tc
from bayes_cannon.core.warnings import BayesCannonWarning

SECONDS = 120.0
FINE, WORDS = "a result", "an error in words"
FAULTS = (
    "bare TypeError", "bare ValueError", "bare AttributeError", "bare IndexError", "bare KeyError", "bare LinAlgError",
    "other bare exception", "argument changed", "other result", "crash", "hang",
)  # fmt: skip
WARNING = "a library's warning"
_PACKAGE = str(Path(tc.__file__).parent)
_WORDED = (ValueError, TypeError, KeyError, OSError, ImportError)


def in_words(error: BaseException) -> bool:
    """Whether an exception was raised by a statement of the package, and not by what it called."""
    frame = list(traceback.walk_tb(error.__traceback__))[-1][0]
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    operation = next((one for one in dis.get_instructions(frame.f_code) if one.offset == last.tb_lasti), None)
    raised = operation is not None and operation.opname == "RAISE_VARARGS"
    return raised and frame.f_code.co_filename.startswith(_PACKAGE) and isinstance(error, _WORDED) and bool(str(error))


def _place(error: BaseException) -> str:
    """Innermost line of the package that an exception passed."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_PACKAGE)]
    return f"{Path(ours[-1].filename).relative_to(_PACKAGE)}:{ours[-1].lineno}" if ours else "outside"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _frozen(given: dict[str, Any]) -> list[Any]:
    data = (np.ma.getdata(array) for array in leaves(given))
    return [array.tobytes() if array.dtype != object else str(array) for array in data]


def _answer(target: Target, given: dict[str, Any], *, show: bool = False) -> tuple[str, str, Any]:
    """Outcome of a call, a line about it, and its result."""
    before = _frozen(given)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = target.call(**given)
        except Exception as error:  # noqa: BLE001 - whatever a function raises is the answer
            if show:
                traceback.print_exception(error)
            if in_words(error):
                outcome, about, result = WORDS, _said(error), None
            else:
                name = f"bare {type(error).__name__}"
                outcome = name if name in FAULTS else "other bare exception"
                about, result = f"{_place(error)}: {_said(error)}", None
        else:
            outcome, about = FINE, ""
    if before != _frozen(given):
        return "argument changed", about, result
    foreign = [one for one in caught if not issubclass(one.category, BayesCannonWarning | ResourceWarning)]
    foreign = [one for one in foreign if str(_PACKAGE) not in str(one.message) and _is_librarys(one)]
    if outcome == FINE and foreign:
        one = foreign[0]
        return WARNING, f"{Path(one.filename).name}:{one.lineno}: {one.category.__name__}: {one.message}"[:200], result
    return outcome, about, result


def _is_librarys(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, RuntimeWarning | DeprecationWarning | FutureWarning | SyntaxWarning)


def _same(one: Any, other: Any, tolerance: float = 0.0) -> bool:
    """Whether two results hold the same numbers."""
    pairs = list(leaves(one)), list(leaves(other))
    if len(pairs[0]) != len(pairs[1]):
        return False
    for found, wanted in zip(*pairs, strict=True):
        if found.dtype.kind not in "fc" or tolerance == 0:
            equal = found.shape == wanted.shape and (
                np.array_equal(found, wanted, equal_nan=found.dtype.kind in "fc" and wanted.dtype.kind in "fc")
            )
        else:
            scale = np.abs(wanted[np.isfinite(wanted)]).max(axis=None, initial=0.0) if wanted.size else 0.0
            equal = found.shape == wanted.shape and np.allclose(found, wanted, rtol=tolerance, atol=tolerance * scale,
                                                                equal_nan=True)  # fmt: skip
        if not equal:
            return False
    return True


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def call(number: int, seed: int = 0, *, show: bool = False) -> tuple[str, str, str]:
    """Make one call. Returns the outcome, what was called with what, and what was said."""
    chance = random.Random(f"{seed} {number}")
    every = targets()
    target = chance.choices(every, [one.weight for one in every])[0]
    given = {name: _copied(value) for name, value in target.valid.items()}
    arrays = [name for name, value in given.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]
    if arrays and not target.refused and chance.random() < 0.15:
        name, kind = chance.choice(arrays), chance.choice(list(SAME))
        what = f"{target.name}({name}: {kind})"
        plain = _answer(target, {one: _copied(value) for one, value in target.valid.items()})
        outcome, about, result = _answer(target, given | {name: SAME[kind](given[name])}, show=show)
        if outcome in (FINE, WARNING) and not _same(result, plain[2]):
            outcome, about = "other result", "not the same bits"
        elif outcome == WORDS:
            outcome = "other result"
        return outcome, what, about
    changed = chance.sample(sorted(given), min(len(given), 2 if chance.random() < 0.15 else 1))
    kinds = {name: odd(given[name], chance) for name in changed}
    what = f"{target.name}({', '.join(f'{name}: {kind}' for name, (kind, _) in kinds.items())})"
    outcome, about, _ = _answer(target, given | {name: value for name, (_, value) in kinds.items()}, show=show)
    return outcome, what, about


def invariance(name: str) -> tuple[str, str, str]:
    """Check one of the properties that results have whatever the numbers."""
    make, tolerance = INVARIANCES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found, wanted = make()
        except Exception as error:  # noqa: BLE001 - it is the answer
            return "other result", name, f"{_place(error)}: {_said(error)}"
    return (FINE if _same(found, wanted, tolerance) else "other result"), name, ""


class Caller:
    """A process that makes calls, started anew when it dies or hangs."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._process: subprocess.Popen | None = None

    def call(self, number: int) -> tuple[str, str, str]:
        """As `call`, or a crash or a hang."""
        first = self._process is None
        if first:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--caller", "--seed", str(self._seed)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1,
            )  # fmt: skip
        process = self._process
        process.stdin.write(f"{number}\n")
        line = ""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while selector.select(SECONDS * (3 if first else 1)):
                line = process.stdout.readline()
                if line == "" or line.startswith("@"):
                    break
            else:
                line = "hang"
        if not line.startswith("@"):
            process.kill()
            process.communicate()
            self._process = None
            return line or "crash", f"call {number}", ""
        outcome, what, about = line[1:].rstrip("\n").split("\t", 2)
        return outcome, what, about


def _serve(seed: int) -> None:
    """Make the calls whose numbers are read, in a folder where nothing can be harmed."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.chdir(files())
    for line in sys.stdin:
        parts = call(int(line), seed)
        print("@" + "\t".join(" ".join(part.split()) for part in parts), file=answers)


def run(numbers: Any, seed: int, answer: Callable[[int], tuple[str, str, str]], until: float = np.inf) -> Any:
    """Make calls until there is none left or the time is over. Returns the counts and an example of each fault."""
    counts: Counter[str] = Counter()
    faults: dict[str, tuple[int, str, str, int]] = {}
    for number in numbers:
        if time.monotonic() > until:
            break
        outcome, what, about = answer(number)
        counts[outcome] += 1
        if outcome not in (FINE, WORDS):
            place = about.split(" ", 1)[0]
            key = f"{outcome} {place}" if place.endswith(":") else f"{outcome} {what.split('(')[0]}"
            seen = faults[key][3] if key in faults else 0
            faults[key] = (number, outcome, f"{what}: {about}", seen + 1)
    return counts, faults


def _print(counts: Counter[str], faults: dict[str, tuple[int, str, str, int]]) -> None:
    print("| outcome | calls |", "|---|---|", sep="\n")
    for outcome in (FINE, WORDS, WARNING, *FAULTS):
        print(f"| {outcome} | {counts[outcome]:,} |")
    print(f"| all | {counts.total():,} |", flush=True)
    for number, outcome, text, seen in sorted(faults.values(), key=lambda one: (one[1], one[2])):
        print(f"  {outcome} ({seen}x, such as call {number}): {text}")


def main() -> None:
    """Print a table, and exit with 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="make this call alone, and show its traceback")
    parser.add_argument("--caller", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.caller:
        _serve(options.seed)
        return
    if options.number is not None:
        os.chdir(files())
        print(*call(options.number, options.seed, show=True), sep="\n")
        return
    numbers = range(options.first, options.first + options.calls)
    until = time.monotonic() + 60 * options.minutes
    counts, faults = run(numbers, options.seed, Caller(options.seed).call, until)
    for name in INVARIANCES:
        outcome, what, about = invariance(name)
        counts[outcome] += 1
        if outcome != FINE:
            faults[name] = (-1, outcome, f"{what}: {about}", 1)
    _print(counts, faults)
    sys.exit(1 if any(counts[name] for name in FAULTS) else 0)


if __name__ == "__main__":
    main()
