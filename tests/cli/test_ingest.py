"""The commands ingest and info, and train and infer with the files of a survey."""

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner, Result

import bayes_cannon as tc
from bayes_cannon.cli import main
from bayes_cannon.io.tables import read_table

pytest.importorskip("zarr")

RECIPE = """
name = "sim"
[model]
label_names = ["TEFF", "LOGG"]
order = 1
[data]
spectra = {spectra}
labels = "labels.ecsv"
id_column = "NAME"
{more}
"""


def run(*arguments: object, inside: Path | None = None) -> Result:
    before = Path.cwd()
    os.chdir(inside or before)
    try:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])
    finally:
        os.chdir(before)


@pytest.fixture
def folder(tmp_path, write_apstar):
    """Twenty files, and a table of labels."""
    (tmp_path / "files").mkdir()
    for k in range(20):
        write_apstar(tmp_path / "files" / f"{k:02d}.fits", star=f"star {k}", seed=k)
    rng = np.random.default_rng(0)
    names = [f"star {k}" for k in range(20)]
    table = Table({"NAME": names, "TEFF": rng.uniform(4000, 5000, 20), "LOGG": rng.uniform(1, 3, 20)})
    table.write(tmp_path / "labels.ecsv")
    return tmp_path


def test_ingest_says_what_it_left_out(folder):
    (folder / "files/note.txt").write_text("none")
    (folder / "files/cut.fits").write_bytes((folder / "files/00.fits").read_bytes()[:5000])
    result = run("ingest", "files", "s.zarr", "--workers", 1, "--labels", "labels.ecsv", inside=folder)
    assert result.exit_code == 0, result.output
    assert "20 spectra of 20 files" in result.stdout
    assert "2 of 22 files were left out" in result.stderr
    assert "no reader recognizes it" in result.stderr, result.stderr.splitlines()[-4:]
    assert "22/22" in result.stderr
    refused = read_table(folder / "s-refused.ecsv")
    assert sorted(Path(name).name for name in refused["file"]) == ["cut.fits", "note.txt"]
    read = tc.io.read_spectra(folder / "s.zarr")
    assert read.n_stars == 20
    np.testing.assert_allclose(read.labels["TEFF"], read_table(folder / "labels.ecsv")["TEFF"])
    again = run("ingest", "files", "s.zarr", inside=folder)
    assert again.exit_code == 1
    assert "s.zarr exists; pass --overwrite" in again.stderr


def test_ingest_takes_lists_grids_and_visits(folder):
    (folder / "list.txt").write_text("files/01.fits\nfiles/00.fits\n")
    options = ("--grid", "15102 15106 1", "--combined", "visits", "--mask-bits", "none", "--workers", 1)
    result = run("ingest", "@list.txt", "files/02.fits", "s.nc", *options, "--quiet", inside=folder)
    assert result.exit_code == 0, result.output
    assert result.stdout == "wrote s.nc\n"
    read = tc.io.read_spectra(folder / "s.nc")
    assert read.ids.tolist() == ["star 1"] * 2 + ["star 0"] * 2 + ["star 2"] * 2
    np.testing.assert_allclose(read.wavelength, np.arange(15102.0, 15107.0))
    for wrong, said in (
        (("--grid", "apogi"), "there is no grid 'apogi'"),
        (("--survey", "me"), "there is no reader 'me'"),
    ):
        result = run("ingest", "files", "t.zarr", *wrong, inside=folder)
        assert result.exit_code == 1
        assert said in result.stderr


def test_train_and_infer_by_the_files_of_a_survey(folder):
    (folder / "r.toml").write_text(RECIPE.format(spectra='"files"', more='mask_bits = ["BADPIX"]'))
    result = run("train", "r.toml", "--quiet", inside=folder)
    assert result.exit_code == 0, result.output
    assert run("ingest", "files", "s.zarr", "--workers", 1, "--quiet", inside=folder).exit_code == 0
    for files, output in ((("files/00.fits", "files/01.fits"), "two.ecsv"), (("s.zarr",), "all.ecsv")):
        result = run("infer", "sim.model", *files, "-o", output, "--quiet", inside=folder)
        assert result.exit_code == 0, result.output
    two, everything = read_table(folder / "two.ecsv"), read_table(folder / "all.ecsv")
    assert list(two["star_id"]) == ["star 0", "star 1"]
    np.testing.assert_allclose(two["TEFF"], everything["TEFF"][:2], rtol=1e-4)

    (folder / "r.toml").write_text(
        RECIPE.format(spectra='["files/0*.fits", "files/1*.fits"]', more='combined = "best"')
    )
    result = run("train", "r.toml", "--overwrite", inside=folder)
    assert result.exit_code == 1
    assert "combined must be one of" in result.stderr


def test_a_store_that_was_prepared_is_not_prepared_again(folder):
    continuum = "[continuum]\nevery = 5\norder = 1\nL = 1000.0"
    (folder / "r.toml").write_text(RECIPE.format(spectra='"s.zarr"', more=continuum))
    result = run("ingest", "files", "s.zarr", "--continuum", "r.toml", "--workers", 1, "--quiet", inside=folder)
    assert result.exit_code == 0, result.output
    (folder / "plain.toml").write_text(RECIPE.format(spectra='"s.zarr"', more="").replace('"sim"', '"plain"'))
    for recipe, model in (("r.toml", "sim.model"), ("plain.toml", "plain.model")):
        assert run("train", recipe, "--quiet", inside=folder).exit_code == 0
        for files, output in (("files", f"{model}-files.ecsv"), ("s.zarr", f"{model}-store.ecsv")):
            result = run("infer", model, files, "-o", output, "--quiet", inside=folder)
            assert result.exit_code == 0, result.output
        one, other = (read_table(folder / f"{model}-{what}.ecsv") for what in ("files", "store"))
        np.testing.assert_allclose(one["LOGG"], other["LOGG"], rtol=1e-3)


def test_info(folder):
    said = run("info", folder / "files/00.fits").stdout
    for part in (
        "apogee-apstar",
        "4 (combined, combined 2, visit 1, visit 2)",
        "star 0",
        "50 from 15100.802",
        "vacuum",
        "rest",
        "BADPIX",
    ):
        assert part in said
    run("ingest", "files", "s.zarr", "--workers", 1, "--quiet", inside=folder)
    said = run("info", folder / "s.zarr").stdout
    for part in ("1 of 1024 spectra", "20", "50 from 15100.802", "ingest_combined", "SNR"):
        assert part in said
    (folder / "r.toml").write_text(RECIPE.format(spectra='"s.zarr"', more=""))
    assert run("train", "r.toml", "--quiet", inside=folder).exit_code == 0
    said = run("info", folder / "sim.model").stdout
    for part in ("TEFF, LOGG", "3: 1 + TEFF + LOGG", "20 in the training set", "independent"):
        assert part in said
    result = run("info", folder / "labels.ecsv")
    assert result.exit_code == 1
    assert "no reader recognizes" in result.stderr
    assert "there is no file" in run("info", folder / "no.fits").stderr
