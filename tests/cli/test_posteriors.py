"""The commands sample and diagnose, and labels with the posterior that sample wrote."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import bayes_cannon as tc
from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.cli import main
from bayes_cannon.io.posterior_tree import read_posterior
from bayes_cannon.io.spectra import Spectra, write_spectra
from bayes_cannon.io.tables import read_table
from bayes_cannon.posterior.theta import sample as posterior_pixels

# The shapes, and so the compiled programs, of tests/model/test_sample.py.
N_STARS, N_PIXELS, N_DRAWS = 60, 6, 300


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior_pixels, "PIXELS_AT_ONCE", 4)
        yield


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its training spectra, the same without, and spectra to label."""
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.uniform(4000, 5000, N_STARS), rng.normal(0, 0.3, N_STARS)])
    flux = 1 + (labels - [4500, 0]) / [1000, 1.2] @ rng.normal(0, 0.05, (2, N_PIXELS))
    flux += 0.02 * rng.normal(size=flux.shape)
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "FE_H"), 1)
    model = tc.CannonModel(labels, flux, np.full(flux.shape, 1e4), vectorizer, regularization=10.0)
    model.dispersion = np.linspace(5000, 5010, N_PIXELS)
    model.train()
    folder = tmp_path_factory.mktemp("posteriors")
    model.write(folder / "sim.model", include_training_set_spectra=True)
    model.write(folder / "bare.model")
    write_spectra(folder / "new.npz", Spectra(flux, np.full(flux.shape, 1e4), model.dispersion))
    return folder


@pytest.fixture(scope="module")
def sampled(folder: Path) -> Result:
    return run("sample", folder / "sim.model", "-o", folder / "p.zarr", "--draws", N_DRAWS)


def test_sample_writes_a_store_and_says_how_it_went(folder, sampled):
    assert sampled.exit_code == 0, sampled.output
    assert f"sim.model: sampled {N_PIXELS} pixels in" in sampled.stdout
    assert "pixels: the chains agree" in sampled.stdout
    assert "smallest bulk ESS of a pixel:" in sampled.stdout
    assert "a second over all pixels" in sampled.stdout
    assert f"wrote {folder / 'p.zarr'}" in sampled.stdout
    assert "pixel/s" in sampled.stderr
    with read_posterior(folder / "p.zarr") as tree:
        assert tree["posterior/theta"].shape == (4, N_DRAWS, N_PIXELS, 3)
    model = tc.CannonModel.read(folder / "bare.model")
    model.use_posterior(folder / "p.zarr")
    assert np.isfinite(model.posterior.mean).all()


def test_sample_goes_on_or_is_told_what_differs(folder, sampled):
    again = run("sample", folder / "sim.model", "-o", folder / "p.zarr", "--draws", N_DRAWS, "--resume")
    assert again.exit_code == 0, again.output
    assert "a second over all pixels" not in again.stdout
    other = run("sample", folder / "sim.model", "-o", folder / "p.zarr", "--draws", N_DRAWS, "--seed", 3)
    assert other.exit_code == 1
    assert "key is 0 there and 3 here" in other.stderr
    assert "pass --overwrite to replace it" in other.stderr


def test_sample_some_pixels_by_importance_without_draws(folder):
    store = folder / "some.zarr"
    options = ("--method", "psis", "--draws", N_DRAWS, "--pixels", 2, 4, "--summary-only", "-q")
    result = run("sample", folder / "sim.model", "-o", store, *options)
    assert result.output == f"wrote {store}\n"
    result = run("diagnose", store, "-o", folder / "some")
    assert result.exit_code == 0, result.output
    assert "largest k-hat:" in result.stdout
    assert "no draws are stored" in result.stdout
    assert {path.name for path in (folder / "some").iterdir()} == {"some-pixels.ecsv", "some-diagnostics.png"}
    table = read_table(folder / "some/some-pixels.ecsv")
    assert table["pixel"].tolist() == [2, 3, 4]
    assert not table["flagged"].any()


def test_sample_without_spectra_says_how_to_keep_them(folder):
    result = run("sample", folder / "bare.model", "-o", folder / "none.zarr")
    assert result.exit_code == 1
    assert "holds no training spectra" in result.stderr
    assert "bayes-cannon train --with-spectra" in result.stderr
    assert not (folder / "none.zarr").exists()


def assert_errors_are(path: Path, fit: object, kind: str) -> None:
    """The table of a command has the labels and errors of a fit in Python."""
    table = read_table(path)
    assert table.meta["ERRORS"] == kind
    for k, name in enumerate(("TEFF", "FE_H")):
        np.testing.assert_allclose(table[name], fit.labels[:, k], rtol=1e-9)
        np.testing.assert_allclose(table[f"{name}_ERR"], np.sqrt(fit.covariance[:, k, k]), rtol=1e-9)


def test_theta_is_integrated_out_with_the_store_or_with_a_model_that_holds_its_posterior(folder, sampled, tmp_path):
    # The store is finished, so that nothing is sampled anew.
    options = ("--draws", N_DRAWS, "--write-model", tmp_path / "with.model")
    result = run("sample", folder / "sim.model", "-o", folder / "p.zarr", *options)
    assert result.exit_code == 0, result.output
    assert f"wrote {tmp_path / 'with.model'}" in result.stdout
    model = tc.CannonModel.read(folder / "sim.model")
    flux, ivar = model.training_set_flux, model.training_set_ivar
    formal = model.fit_labels(flux, ivar)
    model.use_posterior(folder / "p.zarr")
    integrated = model.fit_labels(flux, ivar)
    assert (integrated.covariance[:, 0, 0] > formal.covariance[:, 0, 0]).all()
    known, unknown = "formal, theta integrated out", "formal, theta taken as known exactly"
    for name, options, fit, kind in (
        ("sim.model", (), formal, unknown),
        ("sim.model", ("--posterior", folder / "p.zarr"), integrated, known),
        ("bare.model", ("--posterior", folder / "p.zarr"), integrated, known),
        (tmp_path / "with.model", (), integrated, known),
    ):
        result = run("infer", folder / name, folder / "new.npz", "-o", tmp_path / "l.ecsv", "--overwrite", *options)
        assert result.exit_code == 0, result.output
        assert f"errors of labels: {kind}" in result.stdout
        assert_errors_are(tmp_path / "l.ecsv", fit, kind)
    assert tc.CannonModel.read(tmp_path / "with.model").training_set_flux is not None


@pytest.mark.filterwarnings("default:the calibration is forgotten")
def test_calibration_of_other_errors_is_dropped_with_a_warning(folder, sampled, tmp_path, monkeypatch):
    monkeypatch.setattr("bayes_cannon.calibration.fit.calibrate", lambda *_, **__: Calibration.from_floor(np.eye(2)))
    model = tc.CannonModel.read(folder / "sim.model")
    model.calibrate(n_folds=2, seed=48)
    model.write(tmp_path / "calibrated.model")
    options = ("--posterior", folder / "p.zarr", "-o", tmp_path / "l.ecsv")
    result = run("infer", tmp_path / "calibrated.model", folder / "new.npz", *options)
    assert result.exit_code == 0, result.output
    assert "run bayes-cannon calibrate with a model that sample --write-model wrote" in result.stderr
    assert read_table(tmp_path / "l.ecsv").meta["ERRORS"] == "formal, theta integrated out"


def test_infer_refuses_the_posterior_of_another_model(folder, sampled, tmp_path):
    model = tc.CannonModel.read(folder / "sim.model")
    model.regularization = 20.0
    model.train()
    model.write(tmp_path / "other.model")
    options = ("--posterior", folder / "p.zarr", "-o", tmp_path / "l.ecsv")
    result = run("infer", tmp_path / "other.model", folder / "new.npz", *options)
    assert result.exit_code == 1
    assert "is of another model: it differs in coefficients" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "l.ecsv").exists()
    result = run("infer", folder / "sim.model", folder / "new.npz", "--posterior", tmp_path / "none.zarr")
    assert result.exit_code == 1
    assert "there is no posterior" in result.stderr


def test_sample_does_not_replace_a_model_file(folder, tmp_path):
    (tmp_path / "there.model").write_text("precious")
    options = ("-o", tmp_path / "p.zarr", "--write-model", tmp_path / "there.model")
    result = run("sample", folder / "sim.model", *options)
    assert result.exit_code == 1
    assert "there.model exists; remove it, or choose another name" in result.stderr
    assert (tmp_path / "there.model").read_text() == "precious"
    assert not (tmp_path / "p.zarr").exists()


def test_diagnose_lets_arviz_check(folder, sampled):
    result = run("diagnose", folder / "p.zarr", "-o", folder / "out", "--checked", 3)
    assert result.exit_code == 0, result.output
    assert "ArviZ checked 3 pixels: its R-hat differs from the stored one by" in result.stdout
    table = read_table(folder / "out/p-pixels.ecsv")
    known = np.isfinite(table["arviz_r_hat"])
    assert known.sum() == 3
    np.testing.assert_allclose(table["arviz_r_hat"][known], table["r_hat"][known], rtol=1e-6)
    np.testing.assert_allclose(table["arviz_ess_bulk"][known], table["ess_bulk"][known], rtol=0.1)
    with read_posterior(folder / "p.zarr") as tree:
        np.testing.assert_array_equal(table["r_hat"], tree["summary/r_hat"].max("parameter"))
    assert len(read_table(folder / "out/p-arviz.ecsv")) == 3 * 4
    again = run("diagnose", folder / "p.zarr", "-o", folder / "out")
    assert again.exit_code == 1
    assert "pass --overwrite" in again.stderr


def test_diagnose_flags_what_does_not_mix(folder, sampled, tmp_path):
    with read_posterior(folder / "p.zarr") as there:
        tree = there.load().copy(deep=True)
    tree["summary/status"][4] = 2
    tree["summary/r_hat"][4] = 1.5
    tree["posterior/s"][0, :, 4] += 0.01
    tree.to_netcdf(tmp_path / "bad.nc", engine="h5netcdf")
    result = run("diagnose", tmp_path / "bad.nc", "-o", tmp_path, "--checked", 0)
    assert result.exit_code == 0, result.output
    assert "1 pixels: the chains disagree" in result.stdout
    assert "largest R-hat: 1.5, at pixel 4" in result.stdout
    table = read_table(tmp_path / "bad-pixels.ecsv")
    assert np.flatnonzero(table["flagged"]).tolist() == [4]
    assert table["arviz_r_hat"][4] > 1.2
    assert np.isnan(np.delete(table["arviz_r_hat"], 4)).all()


def test_no_figure_without_matplotlib(folder, sampled, tmp_path, monkeypatch):
    monkeypatch.setattr("bayes_cannon.cli.posteriors.find_spec", lambda name: None)
    result = run("diagnose", folder / "p.zarr", "-o", tmp_path, "--checked", 0, "-q")
    assert result.exit_code == 0, result.output
    assert "install bayes-cannon[plots]" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["p-pixels.ecsv"]


def test_what_is_no_posterior_is_an_error_of_one_line(tmp_path):
    result = run("diagnose", tmp_path / "none.zarr")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "there is no posterior" in result.stderr
