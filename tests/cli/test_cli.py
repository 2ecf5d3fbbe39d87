"""The command line from end to end, on small simulated spectra, and how it tells of errors."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner, Result

from bayes_cannon.cli import main
from bayes_cannon.cli.building import build_model
from bayes_cannon.io.model_file import array_hash, training_set_hash
from bayes_cannon.io.recipe import read_recipe
from bayes_cannon.io.spectra import Spectra, write_spectra
from bayes_cannon.io.tables import read_table
from bayes_cannon.model import CannonModel, RestrictedCannonModel

# 200 training stars, 60 pixels and 10 terms: the shapes, and so the compiled programs, that other tests use.
N_USABLE, N_PIXELS, ERROR = 259, 60, 0.01
N_STARS = N_USABLE + 2
PARQUET = pytest.param(".parquet", marks=pytest.mark.skipif(find_spec("pyarrow") is None, reason="no pyarrow"))
NAMES = ["TEFF", "LOGG", "FE_H"]
WAVELENGTH = np.linspace(5000.0, 5200.0, N_PIXELS)

RECIPE = """
name = "sim"
[model]
label_names = ["TEFF", "LOGG", "FE_H"]
order = 2
[model.label_units]
FE_H = "dex"
[data]
spectra = "spectra.nc"
[data.cuts]
TEFF = { above = 4000.0, below = 6000.0 }
[censors.FE_H]
censored = [[5100.0, inf]]
[validation]
folds = 4
held_out = 1
"""


def _simulated() -> Spectra:
    """Spectra linear in three labels, FE_H acting only below 5100 Angstrom, with what must be left out among them."""
    rng = np.random.default_rng(5)
    teff, logg, fe_h = (rng.uniform(low, high, N_STARS) for low, high in ((4100, 5900), (1, 4), (-1, 0.5)))
    teff[0], fe_h[1] = 8000.0, np.nan
    slopes = rng.normal(0, 0.1, (3, N_PIXELS))
    slopes[2, WAVELENGTH >= 5100] = 0
    x = np.stack([(teff - 5000) / 1000, logg - 2.5, np.nan_to_num(fe_h)], axis=1)
    flux = 1 + x @ slopes + rng.normal(0, ERROR, (N_STARS, N_PIXELS))
    ivar = np.full(flux.shape, ERROR**-2)
    flux[2, 3], ivar[2, 3] = np.nan, 0
    ids = np.array([f"star {n}" for n in range(N_STARS)])
    return Spectra(flux, ivar, WAVELENGTH, ids, {"TEFF": teff, "LOGG": logg, "FE_H": fe_h}, {"TEFF": "K"})


def _usable() -> Spectra:
    """The stars that the recipe takes."""
    stars = _simulated()
    return stars.at((stars.labels["TEFF"] < 6000) & np.isfinite(stars.labels["FE_H"]))


def _fold() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, _usable().n_stars)


def _held_out() -> Spectra:
    """The stars that it keeps apart; to label as many at a time as in training needs no new compiled program."""
    return _usable().at(_fold() == 1)


def run(*arguments: object, inside: Path | None = None) -> Result:
    before = Path.cwd()
    os.chdir(inside or before)
    try:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])
    finally:
        os.chdir(before)


def assert_same_labels(one: Path, other: Path) -> None:
    first, second = read_table(one), read_table(other)
    assert [str(name) for name in first["star_id"]] == [str(name) for name in second["star_id"]]
    for column in ("TEFF", "LOGG", "FE_H_ERR", "chi2"):
        np.testing.assert_allclose(first[column], second[column], rtol=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Folder of a recipe that was trained once, and what the command said."""
    folder = tmp_path_factory.mktemp("trained")
    write_spectra(folder / "spectra.nc", _simulated())
    write_spectra(folder / "new.nc", _held_out())
    (folder / "recipe.toml").write_text(RECIPE)
    return folder, run("train", folder, "--output", folder / "out" / "deep")


def test_all_folds_are_held_out_in_turn(trained, tmp_path):
    folder, _ = trained
    recipe = RECIPE.replace("held_out = 1", 'held_out = "all"').replace('"spectra.nc"', f'"{folder / "spectra.nc"}"')
    (tmp_path / "recipe.toml").write_text(recipe)
    result = run("train", tmp_path, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found, stars = read_table(tmp_path / "out/sim-labels.ecsv"), _usable()
    assert [str(name) for name in found["star_id"]] == stars.ids.tolist()
    one = read_table(folder / "out/deep/sim-labels.ecsv")
    np.testing.assert_allclose(found["TEFF"][_fold() == 1], one["TEFF"], rtol=1e-6)
    np.testing.assert_allclose(found["TEFF_REFERENCE"], stars.labels["TEFF"], rtol=1e-12)
    # The model is that of all stars.
    assert len(CannonModel.read(tmp_path / "out/sim.model").training_set_labels) == stars.n_stars


def test_train_writes_everything_and_says_so(trained):
    folder, result = trained
    assert result.exit_code == 0, result.output
    names = {path.name for path in (folder / "out" / "deep").iterdir()}
    assert names == {
        "sim.model", "sim-labels.ecsv", "sim-validation.ecsv", "sim-one-to-one.png", "sim-theta.png", "sim-scatter.png",
    }  # fmt: skip
    assert all(f"wrote {folder / 'out' / 'deep' / name}" in result.stdout for name in names)
    assert "robust_scatter" in result.stdout
    assert "left out 1 stars whose labels are not all finite" in result.stderr
    assert "pixel/s" in result.stderr
    assert "pixel/s" not in result.stdout


def test_train_leaves_out_what_the_recipe_says(trained):
    folder, _ = trained
    usable, fold = _usable(), _fold()
    model = CannonModel.read(folder / "out/deep/sim.model")
    assert np.array_equal(model.training_set_labels, usable.at(fold != 1).label_array(NAMES))
    labels = read_table(folder / "out/deep/sim-labels.ecsv")
    assert [str(name) for name in labels["star_id"]] == usable.at(fold == 1).ids.tolist()
    assert labels["TEFF_REFERENCE"].tolist() == usable.at(fold == 1).labels["TEFF"].tolist()
    assert model.label_units == {"TEFF": "K", "FE_H": "dex"}
    assert str(labels["FE_H_ERR"].unit) == str(labels["FE_H_REFERENCE"].unit) == "dex"


def test_train_censors_and_finds_the_labels(trained):
    folder, _ = trained
    model = CannonModel.read(folder / "out/deep/sim.model")
    assert np.array_equal(model.censors["FE_H"], WAVELENGTH >= 5100)
    assert not model.theta[WAVELENGTH >= 5100, 3].any()
    labels = read_table(folder / "out/deep/sim-labels.ecsv")
    pulls = (labels["TEFF"] - labels["TEFF_REFERENCE"]) / labels["TEFF_ERR"]
    assert np.std(pulls) == pytest.approx(1, abs=4 / np.sqrt(2 * len(labels)))
    summary = read_table(folder / "out/deep/sim-validation.ecsv")
    assert summary["label"].tolist() == NAMES
    assert (summary["failed"] == 0).all()


def test_correlated_scatter_stands_beside_the_independent(trained):
    folder, result = trained
    assert "latent factors" not in result.stdout
    (folder / "correlated.toml").write_text(RECIPE + "[scatter]\nrank = 2\n")
    result = run("train", folder / "correlated.toml", "--output", folder / "correlated")
    assert result.exit_code == 0, result.output
    before, after = result.stdout.split("with 2 latent factors:")
    assert "with independent scatter:" in before
    assert before.count("robust_scatter") == after.count("robust_scatter") == 1
    assert CannonModel.read(folder / "correlated/sim.model").factors.shape == (N_PIXELS, 2)


def test_model_file_says_where_it_comes_from(trained):
    folder, _ = trained
    provenance = CannonModel.read(folder / "out/deep/sim.model").provenance
    assert provenance["recipe"] == "sim"
    training = _usable().at(_fold() != 1)
    wanted = training_set_hash(training.label_array(NAMES), training.flux, training.ivar)
    assert provenance["training_set_sha256"] == wanted


def test_infer_gives_the_labels_of_training(trained, tmp_path):
    folder, _ = trained
    result = run("infer", folder / "out/deep/sim.model", folder / "new.nc", inside=tmp_path)
    assert result.exit_code == 0, result.output
    assert "wrote new-labels.ecsv" in result.stdout
    assert "star/s" in result.stderr
    assert_same_labels(tmp_path / "new-labels.ecsv", folder / "out/deep/sim-labels.ecsv")
    table = read_table(tmp_path / "new-labels.ecsv")
    assert table.meta["MODEL"] == "sim.model"
    assert not [name for name in table.colnames if "PHOTON" in name]


def test_infer_to_fits_quietly(trained, tmp_path):
    folder, _ = trained
    out = tmp_path / "l.fits"
    result = run("infer", folder / "out/deep/sim.model", folder / "new.nc", "-o", out, "--quiet")
    assert result.exit_code == 0
    assert result.output == f"wrote {out}\n"
    assert str(read_table(out)["TEFF_ERR"].unit) == "K"


@pytest.mark.parametrize("suffix", [".fits", ".ecsv"])
def test_infer_with_the_error_budget(trained, tmp_path, suffix):
    folder, _ = trained
    out = tmp_path / f"l{suffix}"
    result = run("infer", folder / "out/deep/sim.model", folder / "new.nc", "-o", out, "--error-budget", "-q")
    assert result.exit_code == 0, result.output
    assert_same_labels(out, folder / "out/deep/sim-labels.ecsv")
    table, stars = read_table(out), _held_out()
    model = CannonModel.read(folder / "out/deep/sim.model")
    budget = model.error_budget(stars.flux, stars.ivar)
    for k, name in enumerate(NAMES):
        sources = [column for column in table.colnames if column.startswith(f"{name}_ERR_")]
        assert sources == [f"{name}_ERR_{source}" for source in ("PHOTON", "SCATTER", "CORRELATED", "THETA")]
        np.testing.assert_allclose(table[f"{name}_ERR_PHOTON"], np.sqrt(budget.variance["photon"][:, k]), rtol=1e-6)
        squares = [np.sign(table[column]) * np.asarray(table[column]) ** 2 for column in sources]
        np.testing.assert_allclose(np.sum(squares, axis=0), np.asarray(table[f"{name}_ERR"]) ** 2, rtol=1e-6)
        assert {str(table[column].unit) for column in sources} == {str(model.label_units.get(name))}


def test_infer_refuses_another_dispersion(trained, tmp_path):
    folder, _ = trained
    stars = _held_out()
    write_spectra(tmp_path / "shifted.nc", Spectra(stars.flux, stars.ivar, WAVELENGTH + 0.1))
    result = run("infer", folder / "out/deep/sim.model", tmp_path / "shifted.nc", "-o", tmp_path / "l.ecsv")
    assert result.exit_code == 1
    assert "dispersion differs from the model's at 60 pixels, first at pixel 0" in result.stderr
    assert not (tmp_path / "l.ecsv").exists()


def test_infer_without_wavelengths_warns(trained, tmp_path):
    folder, _ = trained
    stars = _held_out()
    write_spectra(tmp_path / "bare.npz", Spectra(stars.flux, stars.ivar))
    result = run("infer", folder / "out/deep/sim.model", tmp_path / "bare.npz", "-q", inside=tmp_path)
    assert result.exit_code == 0, result.output
    assert "has no wavelengths" in result.stderr


def test_preparation_goes_with_the_model(tmp_path):
    """Continuum, choice of pixels and logarithm are done to new spectra as they were to the training spectra."""
    # Four pixels more, which the recipe takes off again: the shapes, and so the compiled programs, are those of above.
    wavelength = np.concatenate([WAVELENGTH, [5205.0, 5210.0, 5215.0, 5220.0]])
    for name, stars in (("raw.npz", _simulated()), ("new.npz", _held_out())):
        flux = np.pad(3 * stars.flux, ((0, 0), (0, 4)), constant_values=3.0)
        ivar = np.pad(stars.ivar / 9, ((0, 0), (0, 4)), constant_values=1.0)
        write_spectra(tmp_path / name, Spectra(flux, ivar, wavelength, stars.ids, stars.labels))
    text = RECIPE.replace('"spectra.nc"', '"raw.npz"\nlog_flux = true\nwavelength_range = [5000.0, 5200.0]')
    text = text.replace("[validation]", "[continuum]\nevery = 2\nL = 700.0\norder = 1\n[validation]")
    (tmp_path / "recipe.toml").write_text(text)
    result = run("train", tmp_path, "-o", tmp_path, "-q")
    assert result.exit_code == 0, result.output
    model = CannonModel.read(tmp_path / "sim.model")
    assert model.dispersion.tolist() == WAVELENGTH.tolist()
    assert abs(np.median(model.theta[:, 0])) < 0.05
    result = run("infer", tmp_path / "sim.model", tmp_path / "new.npz", "-q", "-o", tmp_path / "l.ecsv")
    assert result.exit_code == 0, result.output
    assert_same_labels(tmp_path / "l.ecsv", tmp_path / "sim-labels.ecsv")


@pytest.mark.parametrize("where", ["recipe", "command line"])
def test_labels_from_a_table(trained, tmp_path, where):
    folder, _ = trained
    stars = _simulated()
    write_spectra(tmp_path / "spectra.nc", Spectra(stars.flux, stars.ivar, stars.wavelength, stars.ids))
    order = np.random.default_rng(1).permutation(N_STARS)
    values = [(stars.ids[n], *(stars.labels[name][n] for name in NAMES)) for n in order]
    lines = [",".join(map(str, value)).replace("nan", "") for value in values]
    (tmp_path / "labels.csv").write_text("\n".join(["star_id,TEFF,LOGG,FE_H", *lines]))
    here, named = tmp_path, []
    if where == "recipe":
        text = RECIPE.replace('"spectra.nc"', '"spectra.nc"\nlabels = "labels.csv"')
    else:  # In another folder, so that paths can only be those of the current one.
        text, here, named = RECIPE.replace('spectra = "spectra.nc"\n', ""), tmp_path / "recipes", ["spectra.nc"]
        here.mkdir()
        named += ["--labels", "labels.csv"]
    (here / "recipe.toml").write_text(text)
    result = run("train", here, *named, "-q", inside=tmp_path)
    assert result.exit_code == 0, result.output
    one, other = (CannonModel.read(place / "sim.model") for place in (tmp_path, folder / "out/deep"))
    np.testing.assert_array_equal(one.theta, other.theta)


def _allstar(stars: Spectra, path: Path) -> None:
    """A catalogue in FITS: two rows of a star, one star too few, arrays, flags and a Gaia source id."""
    rows = np.array([0, 3, *range(1, N_STARS - 1)])
    wrong = np.where(np.arange(rows.size) == 1, 100.0, 0.0)
    Table({
        "APOGEE_ID": stars.ids[rows],
        "FPARAM": np.stack([stars.labels["TEFF"][rows] + wrong, stars.labels["LOGG"][rows]], axis=1),
        "FE_H": np.where(rows == 1, -9999.0, stars.labels["FE_H"][rows]),
        "SNR": np.where(wrong > 0, 10.0, 100.0),
        "STARFLAG": np.where(rows == 4, 512, 4),
        "TELESCOPE": np.where(rows == 5, "apo1m", "apo25m"),
        "GAIA": 4567890123456789000 + rows,
    }).write(path)  # fmt: skip


def test_a_survey_catalogue_becomes_a_training_set(tmp_path):
    stars = _simulated()
    write_spectra(tmp_path / "spectra.nc", Spectra(stars.flux, stars.ivar, stars.wavelength, stars.ids))
    _allstar(stars, tmp_path / "allStar.fits")
    # The last star has no row, the first two cannot be used, and the flag and the telescope leave out one each.
    used = stars.at(np.array([n for n in range(2, N_STARS - 1) if n not in (4, 5)]))
    # As many stars as elsewhere, so that nothing is compiled anew.
    teff = np.sort(used.labels["TEFF"])
    text = RECIPE[: RECIPE.index("[validation]")].replace("6000.0", f"{(teff[199] + teff[200]) / 2}")
    data = """labels = "allStar.fits[1]"
missing = [-9999]
columns = { TEFF = "FPARAM[0]", LOGG = "FPARAM[1]" }
duplicates = "best"
best_by = "SNR"
unmatched = "leave out"
"""
    cuts = 'STARFLAG = { without = ["PERSIST_HIGH"] }\nTELESCOPE = { is = "apo25m" }\n'
    text = text.replace("[data]\n", "[data]\n" + data).replace("[censors", cuts + "[censors")
    (tmp_path / "recipe.toml").write_text(text)
    result = run("train", tmp_path / "recipe.toml", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    joined = (
        "by the column APOGEE_ID; of the rows of 1 stars with several that with the largest SNR was taken; "
        f"1 of {N_STARS} spectra have no row and were left out"
    )
    assert f"labels joined: {joined}\ncuts: " in result.stdout
    model = CannonModel.read(tmp_path / "sim.model")
    assert model.provenance["labels_joined"] == joined
    assert model.provenance["cuts"].endswith(", STARFLAG 1, TELESCOPE 1)")
    wanted = used.at(used.labels["TEFF"] < (teff[199] + teff[200]) / 2).label_array(NAMES)
    np.testing.assert_array_equal(model.training_set_labels, wanted)


@pytest.mark.parametrize("suffix", [".fits", PARQUET])
def test_label_tables_say_where_they_come_from(trained, tmp_path, suffix):
    folder, _ = trained
    model, stars, out = folder / "out/deep/sim.model", _held_out(), tmp_path / f"l{suffix}"
    names = {"SOURCE_ID": 4567890123456789000 + np.arange(stars.n_stars), "FIELD": np.full(stars.n_stars, "M 67")}
    write_spectra(tmp_path / "named.nc", replace(stars, identifiers=names, attrs={"medium": "vacuum"}))
    result = run("infer", model, tmp_path / "named.nc", "-o", out, "-q")
    assert result.exit_code == 0, result.output
    table = read_table(out)
    assert table.meta["MODEL"] == "sim.model"
    assert table.meta["MODELSHA"] == sha256(model.read_bytes()).hexdigest()
    assert table.meta["SPECTRA"] == "named.nc"
    assert table.meta["SPECSHA"] == array_hash(stars.flux, stars.ivar)
    assert json.loads(table.meta["TRAINING"]) == CannonModel.read(model).provenance
    assert json.loads(table.meta["DATA"]) == {"medium": "vacuum"}
    assert table.meta["PROGRAM"] == f"bayes_cannon {sys.modules['bayes_cannon'].__version__}"
    assert table.meta["VERSIONS"].startswith("python ")
    assert table["SOURCE_ID"].tolist() == [str(number) for number in names["SOURCE_ID"]]
    fit = CannonModel.read(model).fit_labels(stars.flux, stars.ivar)
    errors = np.sqrt(fit.covariance[:, [0, 1], [0, 1]])
    np.testing.assert_array_equal(table["TEFF"], fit.labels[:, 0])
    np.testing.assert_allclose(table["TEFF_LOGG_CORR"], fit.covariance[:, 0, 1] / errors.prod(axis=1), rtol=1e-12)


def test_recipe_without_validation_writes_a_model_only(tmp_path):
    write_spectra(tmp_path / "spectra.nc", _simulated())
    # As many stars as elsewhere, so that nothing is compiled anew.
    teff = np.sort(_usable().labels["TEFF"])
    text = RECIPE[: RECIPE.index("[validation]")].replace("below = 6000.0", f"below = {(teff[199] + teff[200]) / 2}")
    (tmp_path / "recipe.toml").write_text(text + "[theta_bounds]\nTEFF = [-inf, 0.0]")
    result = run("train", "recipe.toml", "-q", "--with-spectra", inside=tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout == "wrote sim.model\n"
    assert {path.name for path in tmp_path.iterdir()} == {"spectra.nc", "recipe.toml", "sim.model"}
    model = CannonModel.read(tmp_path / "sim.model")
    assert isinstance(model, RestrictedCannonModel)
    assert model.theta_bounds == {"TEFF": (-np.inf, 0.0)}
    assert (model.theta[:, 1] <= 0).all()
    assert len(model.training_set_labels) == 200
    assert model.training_set_flux.shape == (200, N_PIXELS)


def test_existing_output_is_refused_before_any_work(trained, tmp_path, monkeypatch):
    folder, _ = trained

    def works(*_, **__):
        raise AssertionError("work was done")

    monkeypatch.setattr("bayes_cannon.cli.pipeline.train_recipe", works)
    monkeypatch.setattr(CannonModel, "read", works)
    (tmp_path / "sim-theta.png").write_text("precious")
    result = run("train", folder, "-o", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "sim-theta.png exists; pass --overwrite to replace it" in result.stderr
    result = run("infer", "no.model", "no.nc", "-o", folder / "spectra.nc")
    assert "written as .fits, .ecsv, .vot or .parquet" in result.stderr
    (tmp_path / "l.fits").touch()
    result = run("infer", "no.model", "no.nc", "-o", tmp_path / "l.fits")
    assert "l.fits exists; pass --overwrite" in result.stderr
    assert (tmp_path / "sim-theta.png").read_text() == "precious"


def test_no_figures_without_matplotlib(trained, tmp_path, monkeypatch):
    folder, _ = trained
    monkeypatch.setattr("bayes_cannon.cli.figures.find_spec", lambda name: None)
    result = run("train", folder, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "install bayes-cannon[plots]" in result.stderr
    assert not list(tmp_path.glob("*.png"))
    assert "png" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "no-such-recipe"], "there is no recipe 'no-such-recipe'; the package ships gaia-xp-giants"),
        (["infer", "no.model", "no.nc"], "there is no model file no.model"),
        (["infer", "foreign.model", "no.nc"], "foreign.model is no model file but a Python pickle"),
        (["train", "typo.toml"], "typo.toml: unknown key 'ordr' in [model]; did you mean 'order'?"),
        (["train", "nothing.toml"], f"no star of {N_STARS} passes [data.cuts]"),
        (["train", "cut.toml"], "[data.cuts] names 'TEF', which the data do not have; they have TEFF, LOGG, FE_H"),
        (["train", "label.toml"], "there is no label 'MG_H'; there are TEFF, LOGG, FE_H"),
        (["train", "lamost"], "the recipe names no spectra: give the files, as in bayes-cannon train RECIPE FILES..."),
        (["train", "lamost", "a.fits"], "[data] missing is about a table of labels: give its path as 'labels', or as"),
        (["train", "lamost", "no.fits", "--labels", "no.csv"], "no.fits"),
    ],
)
def test_error_of_a_run_is_one_line_and_exit_code_1(trained, arguments, said, tmp_path):
    spectra = f'"{trained[0] / "spectra.nc"}"'
    recipe = RECIPE.replace('"spectra.nc"', spectra)
    (tmp_path / "foreign.model").write_bytes(b"\x80\x04nothing")
    (tmp_path / "typo.toml").write_text(recipe.replace("order", "ordr"))
    (tmp_path / "nothing.toml").write_text(recipe.replace("above = 4000.0", "above = 5999.99"))
    (tmp_path / "cut.toml").write_text(recipe.replace("TEFF = { above", "TEF = { above"))
    (tmp_path / "label.toml").write_text(recipe.replace('"FE_H"]', '"FE_H", "MG_H"]'))
    result = run(*arguments, inside=tmp_path)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_debug_shows_the_traceback():
    result = run("infer", "no.model", "no.nc", "--debug")
    assert result.exit_code == 1
    assert isinstance(result.exception, FileNotFoundError)


def test_unexpected_errors_say_how_to_see_more(monkeypatch):
    def breaks(*_, **__):
        raise KeyError("theta")

    monkeypatch.setattr("bayes_cannon.cli.pipeline.run_inference", breaks)
    result = run("infer", "m", "s.nc")
    assert result.exit_code == 1
    assert "KeyError: 'theta' (unexpected; run again with --debug" in result.stderr


@pytest.mark.parametrize("arguments", [["train"], ["infer", "m"], ["nonsense"], ["train", "x", "--colour"]])
def test_wrong_command_line_is_exit_code_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_demo_runs_the_shipped_recipe(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("bayes_cannon.cli.pipeline.run_recipe", lambda *args, **kwargs: seen.append((args, kwargs)))
    assert run("demo", "-o", tmp_path, "-q").exit_code == 0
    assert seen == [(("gaia-xp-giants", tmp_path), {"overwrite": False, "quiet": True})]
    assert read_recipe("gaia-xp-giants").data.source == "gaia-xp"


def test_version_and_help():
    assert run("--version").stdout == f"bayes-cannon, version {sys.modules['bayes_cannon'].__version__}\n"
    shown = run("--help").stdout
    assert all(name in shown for name in ("train", "infer", "sample", "diagnose", "calibrate", "demo"))


def test_help_loads_nothing_heavy():
    script = (
        "import sys\n"
        "from bayes_cannon.cli import main\n"
        "for command in ('', *main.commands):\n"
        "    main([*command.split(), '--help'], standalone_mode=False)\n"
        "heavy = {'jax', 'numpy', 'scipy', 'xarray', 'astropy', 'matplotlib', 'numpyro', 'tqdm', 'arviz'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_units_of_the_spectra_go_with_the_model(trained, tmp_path):
    """The model keeps them, and spectra in other ones are converted: wavelengths in nm, flux in hundredths."""
    folder, stars = trained[0], _held_out()
    recipe = read_recipe(folder / "recipe.toml")
    units = {"wavelength": "Angstrom", "flux": "Jy", "TEFF": "K"}
    model = build_model(recipe, replace(_usable().at(_fold() != 1), units=units))
    assert (model.dispersion_unit, model.flux_unit, model.label_units["TEFF"]) == ("Angstrom", "Jy", "K")
    known = CannonModel.read(folder / "out/deep/sim.model")
    model.use_theta(known.theta, known.s2)
    model.write(tmp_path / "m.model")
    other = {"wavelength": "nm", "flux": "cJy"}
    inputs = {"a.nc": (1.0, 1.0, units), "b.nc": (100.0, 0.1, other)}
    for name, (factor, length, of) in inputs.items():
        spectra = Spectra(factor * stars.flux, stars.ivar / factor**2, length * WAVELENGTH, stars.ids, units=of)
        write_spectra(tmp_path / name, spectra)
        result = run("infer", tmp_path / "m.model", tmp_path / name, "-q", "-o", tmp_path / f"{name}.ecsv")
        assert result.exit_code == 0, result.output
    assert_same_labels(tmp_path / "a.nc.ecsv", tmp_path / "b.nc.ecsv")
    found = read_table(tmp_path / "a.nc.ecsv")
    assert np.median(np.abs(np.asarray(found["TEFF"]) - stars.labels["TEFF"])) < 50
