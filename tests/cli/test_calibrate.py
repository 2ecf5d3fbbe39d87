"""The command calibrate. That calibrated errors cover is tested with `CannonModel.calibrate`."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import bayes_cannon as tc
from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.cli import main
from bayes_cannon.io.spectra import Spectra, write_spectra
from bayes_cannon.io.tables import read_table

FOLDS = ("--folds", 2, "--seed", 11)
"""With this seed both folds have 100 of the 200 stars, so that their training is compiled once."""
ERRORS = {"TEFF": 2.0, "FE_H": 0.002}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _without_chains(difference, covariance, snr, *, leverage, reference_errors=None, key=0):
    """Stands in for the chains, which take half a minute: a floor that depends on all that is handed to them."""
    known = np.zeros(3) if reference_errors is None else np.nan_to_num(reference_errors[0])
    calibration = Calibration.from_floor(np.cov(difference.T) + np.diag(known**2) * (1 + key))
    return replace(calibration, tails=5.0, n_stars=len(difference), r_hat=1.001)


@pytest.fixture(scope="module", autouse=True)
def _no_chains():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayes_cannon.calibration.fit.calibrate", _without_chains)
        yield


@pytest.fixture(scope="module")
def folder(trained: tc.CannonModel, training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its training spectra, and the same without."""
    folder = tmp_path_factory.mktemp("calibrate")
    trained.write(folder / "sim.model", include_training_set_spectra=True)
    trained.write(folder / "bare.model")
    write_spectra(folder / "new.npz", Spectra(training.flux, training.ivar, training.dispersion))
    return folder


@pytest.fixture(scope="module")
def calibrated(folder: Path) -> Result:
    """The command, given in the folder of the model; it writes sim-calibrated.model there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        known = [f"--reference-error={name}={error}" for name, error in ERRORS.items()]
        return run("calibrate", "sim.model", *FOLDS, *known)
    finally:
        os.chdir(before)


def test_what_was_learned_is_printed(calibrated):
    assert calibrated.exit_code == 0, calibrated.output
    assert "sim.model: calibrated with 200 held-out stars" in calibrated.stdout
    header, _, *rows = calibrated.stdout.splitlines()[1:6]
    assert header.split() == ["label", "unit", "factor", "floor"]
    assert [row.split()[0] for row in rows] == ["TEFF", "LOGG", "FE_H"]
    assert "7.0 degrees of freedom; R-hat of the chains 1.001, 0 divergences" in calibrated.stdout
    assert "errors of labels are now: calibrated, theta taken as known exactly" in calibrated.stdout
    assert "wrote sim-calibrated.model" in calibrated.stdout
    assert "fold/s" in calibrated.stderr or "s/fold" in calibrated.stderr


def test_labels_then_have_the_errors_that_python_gives(folder, calibrated, training, tmp_path):
    result = run("infer", folder / "sim-calibrated.model", folder / "new.npz", "-o", tmp_path / "l.ecsv")
    assert result.exit_code == 0, result.output
    assert "errors of labels: calibrated, theta taken as known exactly" in result.stdout
    model = tc.CannonModel.read(folder / "sim.model")
    errors = np.full(model.training_set_labels.shape, np.nan)
    for name, error in ERRORS.items():
        errors[:, model.label_names.index(name)] = error
    model.calibrate(n_folds=2, seed=11, key=11, reference_errors=errors)
    fit, table = model.fit_labels(training.flux, training.ivar), read_table(tmp_path / "l.ecsv")
    for k, name in enumerate(model.label_names):
        np.testing.assert_allclose(table[name], fit.labels[:, k], rtol=1e-6)
        np.testing.assert_allclose(table[f"{name}_ERR"], np.sqrt(fit.covariance[:, k, k]), rtol=1e-6)
    assert np.abs(fit.covariance / fit.formal_covariance - 1).max() > 0.01


def test_training_spectra_stay_in_the_file(folder, calibrated, training):
    model = tc.CannonModel.read(folder / "sim-calibrated.model")
    np.testing.assert_array_equal(model.training_set_flux, training.flux)
    assert model.calibration.n_stars == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bare.model"], "bayes-cannon train --with-spectra"),
        (["none.model"], "there is no model file"),
        (["sim.model", "--reference-error", "MG_H=0.1"], "there is no label 'MG_H'; the labels are TEFF, LOGG, FE_H"),
        (["sim.model", "--output", "sim.model"], "sim.model exists; pass --overwrite to replace it"),
    ],
)
def test_refused_in_one_line(folder, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    for name in ("sim.model", "bare.model"):
        shutil.copy(folder / name, tmp_path)
    before = set(tmp_path.iterdir())
    result = run("calibrate", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("text", ["TEFF", "TEFF=hot", "50", "TEFF=-5", "TEFF=nan"])
def test_an_error_without_a_label_or_a_number_is_a_wrong_command_line(text):
    result = run("calibrate", "sim.model", "--reference-error", text)
    assert result.exit_code == 2
    assert "expected LABEL=ERROR, such as TEFF=50" in result.stderr
