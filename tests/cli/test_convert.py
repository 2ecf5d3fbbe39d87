"""``bayes-cannon convert``: what it writes, what it prints, and that the file then serves the other commands."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bayes_cannon.cli import main
from bayes_cannon.io.spectra import Spectra, write_spectra
from bayes_cannon.io.tables import read_table
from bayes_cannon.model import CannonModel

TERMS = [[(0, 1)], [(1, 1)], [(2, 1)], [(0, 2.0)], [(1, 1), (0, 1)], [(2, 1), (0, 1)], [(1, 2.0)], [(2, 1), (1, 1)],
         [(2, 2.0)]]  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def old(training, tmp_path) -> Path:
    """A file of the original package, with the truth of the simulated training set as theta and s2."""
    state = {
        "vectorizer": ("PolynomialVectorizer", {"label_names": ["TEFF", "LOGG", "FE_H"], "terms": TERMS}),
        "censors": {"label_names": (), "num_pixels": 60, "items": {"TEFF": np.ones(60, bool)}},
        "regularization": np.float64(10), "dispersion": training.dispersion, "theta": training.theta.copy(),
        "s2": training.s2.copy(), "training_set_labels": training.labels,
        "metadata": {"version": "0.2.93", "model_class": "CannonModel", "modified": "2018-04-17"},
    }  # fmt: skip
    state["theta"][2], state["s2"][2] = np.eye(10)[0], np.inf
    (tmp_path / "old.model").write_bytes(pickle.dumps(state, 3))
    return tmp_path / "old.model"


def test_prints_what_was_taken_over_and_what_is_missing(old, tmp_path):
    done = run("convert", old, tmp_path / "new.model")
    assert done.exit_code == 0, done.output
    for line in (
        f"{old}: CannonModel of thecannon 0.2.93, 2018-04-17",
        "3 labels TEFF, LOGG, FE_H, and 10 terms",
        "theta and s2 of 60 pixels; 1 of them have no solution",
        "labels of 200 training stars (float64), their scaling made anew from them",
        "wavelengths from 16650 to 16800",
        "regularization 10",
        "censoring of TEFF at 0 pixels",
        "training spectra: labels can be inferred",
        "units of labels and wavelengths",
        "certificates",
    ):
        assert line in done.output
    assert CannonModel.read(tmp_path / "new.model").is_trained


def test_other_commands_say_how_to_convert(old, tmp_path, training):
    write_spectra(tmp_path / "spectra.nc", Spectra(training.flux[:20], training.ivar[:20], training.dispersion))
    refused = run("infer", old, tmp_path / "spectra.nc", "-o", tmp_path / "labels.ecsv")
    assert refused.exit_code == 1
    assert "bayes-cannon convert OLD NEW" in refused.output


@pytest.mark.slow
def test_the_new_file_labels_stars(old, tmp_path, training):
    assert run("convert", old, tmp_path / "new.model", "--quiet").output == ""
    write_spectra(tmp_path / "spectra.nc", Spectra(training.flux[:20], training.ivar[:20], training.dispersion))
    done = run("infer", tmp_path / "new.model", tmp_path / "spectra.nc", "-o", tmp_path / "labels.ecsv")
    assert done.exit_code == 0, done.output
    table = read_table(tmp_path / "labels.ecsv")
    pull = (table["TEFF"] - training.labels[:20, 0]) / table["TEFF_ERR"]
    assert np.abs(pull).max() < 5


def test_nothing_is_replaced_unless_asked_for(old, tmp_path):
    (tmp_path / "new.model").write_text("mine")
    done = run("convert", old, tmp_path / "new.model")
    assert done.exit_code == 1
    assert "pass --overwrite" in done.output
    assert (tmp_path / "new.model").read_text() == "mine"
    assert run("convert", old, tmp_path / "new.model", "--overwrite").exit_code == 0


def test_errors_name_the_file(old, tmp_path):
    assert "there is no model file" in run("convert", tmp_path / "no.model", tmp_path / "new.model").output
    old.write_bytes(old.read_bytes()[:-50])
    done = run("convert", old, tmp_path / "new.model")
    assert done.exit_code == 1
    assert "old.model" in done.output
    assert not (tmp_path / "new.model").exists()
