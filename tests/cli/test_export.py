"""The commands that label a store of spectra and make a catalogue of the labels."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import bayes_cannon as tc
from bayes_cannon.cli import main

pytest.importorskip("zarr")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(trained: tc.CannonModel, training: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    trained.write(folder / "a.model")
    ids = np.array([f"star {k}" for k in range(200)])
    tc.io.write_spectra(folder / "stars.nc", tc.io.Spectra(training.flux, training.ivar, training.dispersion, ids))
    done = run("ingest", folder / "stars.nc", folder / "stars.zarr", "--shard-size", 64, "--workers", 1, "-q")
    assert done.exit_code == 0, done.output
    assert tc.io.open_store(folder / "stars.zarr").shards == 4
    return folder


def test_infer_and_export_give_the_table_of_infer(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.zarr"
    done = run("infer", files / "a.model", files / "stars.zarr", "-o", out)
    assert done.exit_code == 0, done.output
    assert "200 stars, 200 of them labelled now" in done.output
    done = run("infer", files / "a.model", files / "stars.zarr", "-o", out)
    assert "200 stars, 0 of them labelled now" in done.output
    assert run("export", out, tmp_path / "labels.fits").exit_code == 0
    assert run("infer", files / "a.model", files / "stars.zarr", "-o", tmp_path / "whole.fits", "-q").exit_code == 0
    found, expected = (tc.io.read_table(tmp_path / name) for name in ("labels.fits", "whole.fits"))
    assert found.colnames == expected.colnames
    for name in found.colnames:
        if found[name].dtype.kind == "U":
            assert found[name].tolist() == expected[name].tolist()
        else:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-10, atol=1e-10)
    for name in ("MODEL", "MODELSHA", "SPECTRA", "TRAINING", "DATA", "PROGRAM", "VERSIONS", "ERRORS"):
        assert found.meta[name] == expected.meta[name]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "labels.fits", "--workers", 2], "add -o NAME.zarr"),
        (["-o", "labels.zarr", "--workers", 2, "--scheduler", "tcp://a:1"], "give one of them"),
        (["-o", "labels.zarr", "--overwrite"], "gone on with, not replaced"),
    ],
)
def test_options_that_do_not_go_together(files: Path, options: list, said: str) -> None:
    done = run("infer", files / "a.model", files / "stars.zarr", *options)
    assert done.exit_code == 2
    assert said in done.output


def test_a_store_of_labels_needs_a_store_of_spectra(files: Path, tmp_path: Path) -> None:
    done = run("infer", files / "a.model", files / "stars.nc", "-o", tmp_path / "labels.zarr")
    assert done.exit_code == 2
    assert "bayes-cannon ingest FILES STORE" in done.output


def test_errors_are_one_line(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    scheduler = ["--scheduler", "tcp://127.0.0.1:1"]
    done = run("infer", files / "a.model", files / "stars.zarr", "-o", tmp_path / "labels.zarr", *scheduler)
    assert done.exit_code == 1
    assert done.output.startswith("Error: no Dask scheduler answers at tcp://127.0.0.1:1 within 5 s")
    done = run("export", tmp_path / "none.zarr", tmp_path / "labels.fits")
    assert done.exit_code == 1
    assert "there is no store of labels" in done.output


@pytest.mark.slow
def test_workers(files: Path, tmp_path: Path) -> None:
    done = run("infer", files / "a.model", files / "stars.zarr", "-o", tmp_path / "labels.zarr", "--workers", 2)
    assert done.exit_code == 0, done.output
    assert tc.io.open_labels(tmp_path / "labels.zarr").missing() == []
