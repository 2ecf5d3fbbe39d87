"""Peak memory of this process. Needs only the standard library, so that the original package's runner has it too."""

import resource
import sys
import threading
from pathlib import Path

STATUS = Path("/proc/self/status")
GIGABYTE = 1e9


def _kilobytes(name: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))


def peak_gigabytes() -> float:
    """Largest resident memory so far, mapped files included.

    Linux hands ``ru_maxrss`` of the parent on to a child, ``VmHWM`` belongs to this program alone.
    """
    if STATUS.exists():
        return _kilobytes("VmHWM") * 1024 / GIGABYTE
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIGABYTE


class OwnMemory(threading.Thread):
    """Largest memory that is not a mapped file, looked at twenty times a second; NaN where Linux does not tell."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._kilobytes = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Look until `stop` is called."""
        while STATUS.exists() and not self._ended.wait(0.05):
            self._kilobytes = max(self._kilobytes, _kilobytes("RssAnon"))

    def stop(self) -> float:
        """End, and return the peak in gigabytes."""
        self._ended.set()
        self.join()
        return self._kilobytes * 1024 / GIGABYTE if STATUS.exists() else float("nan")
