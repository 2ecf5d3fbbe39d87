"""Damage is found before a library can trip over it."""

import subprocess

import h5py
import numpy as np
import pytest

from bayes_cannon.io import damage
from bayes_cannon.io.damage import check, check_fits, reading, seal


@pytest.fixture
def sealed(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(300.0)
    seal(path)
    return path


def test_every_byte_counts(sealed):
    whole = sealed.read_bytes()
    check(sealed, hdf5=True)
    for place in range(0, len(whole), 37):
        bad = bytearray(whole)
        bad[place] ^= 0x04
        sealed.write_bytes(bad)
        with pytest.raises(ValueError, match="it is damaged"):
            check(sealed, hdf5=True)


def test_a_lost_end_is_found(sealed):
    whole = sealed.read_bytes()
    for lost in (1, 50, damage.SEAL_SIZE - 1, damage.SEAL_SIZE + 1):
        sealed.write_bytes(whole[:-lost])
        with pytest.raises(ValueError, match="damaged"):
            check(sealed, hdf5=True)


def test_no_process_is_started_for_a_sealed_file(sealed, monkeypatch):
    def fails(*_, **__):
        raise AssertionError("started")

    monkeypatch.setattr(subprocess, "run", fails)
    check(sealed, hdf5=True)


def test_a_file_that_somebody_changed_is_read_elsewhere_first(sealed):
    with h5py.File(sealed, "r+") as file:
        file["x"][0] = 7
    check(sealed, hdf5=True)
    with h5py.File(sealed) as file:
        assert file["x"][0] == 7


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import time; time.sleep(60)", "HDF5 has not read it within 1 s"),
        ("import os; os.kill(os.getpid(), 11)", "a process that read it ended with -11"),
        ("import sys; sys.exit('OSError: bad heap')", "truncated or damaged: OSError: bad heap"),
    ],
)
def test_a_file_that_hangs_or_kills_hdf5_is_damaged(code, said, tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_bytes(b"something")
    monkeypatch.setattr(damage, "_READ_ALL", code)
    monkeypatch.setattr(damage, "_SECONDS", 1.0)
    with pytest.raises(ValueError, match=said):
        check(tmp_path / "a.h5", hdf5=True)


def test_whatever_libraries_raise_names_the_file():
    for error in (KeyError("x"), RecursionError("deep"), MemoryError(), AttributeError("a"), OverflowError("big")):
        with (
            pytest.raises(ValueError, match=r"cannot read spectra from a\.nc: .*; try b"),
            reading("a.nc", "spectra", "try b"),
        ):
            raise error


def test_what_is_larger_than_the_memory_is_refused():
    check_fits("flux", 10**6)
    with pytest.raises(ValueError, match=r"flux has 1e\+06 GB"):
        check_fits("flux", 10**15)
