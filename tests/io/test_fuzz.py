"""A few of the mutants and killed writes of ``benchmarks/fuzz_files.py``."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_files.py"
KINDS = ["m.model", "s.nc", "s.npz", "s.zarr", "p.zarr", "r.toml"]


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_files", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_errors_that_name_them(fuzz, kind):
    said = []
    counts = fuzz.mutants(kind, 25, seed=1, say=said.append)
    faults = {name: counts[name] for name in fuzz.FAULTS if kind != "r.toml" or name != "other contents"}
    assert not any(faults.values()), said
    assert counts.total() == 25


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("kind", KINDS[1:-1])
def test_killed_writes_leave_the_old_or_the_new_file_alone(fuzz, kind):
    counts = fuzz.kills(kind, 5, seed=1)
    assert counts["other contents"] == 0
    assert counts["left behind"] == 0
