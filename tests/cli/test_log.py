"""Every command is quiet when asked, and adds what it does to a log file when it is given one."""

import logging

import click
import numpy as np
import pytest
from click.testing import CliRunner

from bayes_cannon.cli.group import main
from bayes_cannon.io.spectra import Spectra, write_spectra


@pytest.fixture
def spectra(tmp_path):
    path = tmp_path / "spectra.nc"
    write_spectra(path, Spectra(np.ones((3, 5)), np.ones((3, 5)), np.arange(5.0)))
    return path


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_takes_both(name):
    known = {option for p in main.commands[name].params if isinstance(p, click.Option) for option in p.opts}
    assert {"--quiet", "--log"} <= known


def test_quiet_says_nothing(spectra):
    assert "3" in run("info", spectra).output
    result = run("info", spectra, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert run("info", spectra.with_name("other.nc"), "--quiet").exit_code == 1


def test_the_log_has_beginning_work_and_end_and_is_added_to(spectra, tmp_path):
    log, store = tmp_path / "a.log", tmp_path / "s.zarr"
    before = list(logging.getLogger("bayes_cannon").handlers)
    result = run("ingest", spectra, store, "--workers", 1, "--quiet", "--log", log)
    assert result.exit_code == 0, result.output
    lines = log.read_text().splitlines()
    assert " INFO bayes_cannon.cli.reporting: bayes-cannon " in lines[0]
    assert all(given in lines[0] for given in (f"files=('{spectra}',)", f"store={store}", "workers=1", "quiet=True"))
    assert any("INFO bayes_cannon.core.progress: ingest, 1 file: done in 00:00" in line for line in lines)
    assert "ingest ended after " in lines[-1]
    assert run("info", spectra, "--quiet", "--log", log).exit_code == 0
    assert len(log.read_text().splitlines()) == len(lines) + 2
    assert logging.getLogger("bayes_cannon").handlers == before


def test_the_log_has_the_traceback_of_an_error(tmp_path):
    log = tmp_path / "a.log"
    result = run("info", tmp_path / "missing.nc", "--log", log)
    assert result.exit_code == 1
    text = log.read_text()
    assert "ERROR bayes_cannon.cli.reporting: info failed after 0.0 s" in text
    assert "Traceback" in text
    assert "missing.nc" in text
    assert "Traceback" not in result.output


def test_a_log_in_no_folder_is_an_error(spectra, tmp_path):
    result = run("info", spectra, "--log", tmp_path / "none" / "a.log")
    assert result.exit_code == 1
    assert "none/a.log: No such file or directory" in result.output
