"""Local models from a recipe to a label table, and posterior means under a prior, on small simulated spectra."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bayes_cannon.cli import main
from bayes_cannon.io.recipe import parse_recipe
from bayes_cannon.io.spectra import Spectra, write_spectra
from bayes_cannon.io.tables import read_table
from bayes_cannon.model import CannonModel
from bayes_cannon.model.local import LocalCannonModel

N_STARS, N_PIXELS, ERROR = 160, 24, 0.02
NAMES = ("TEFF", "LOGG")
RECIPE = """
name = "sim"
[model]
label_names = ["TEFF", "LOGG"]
order = 1
[local]
partitions = [[2, 1]]
[data]
spectra = "spectra.nc"
[validation]
folds = 4
held_out = HELD_OUT
"""


def _simulated() -> Spectra:
    rng = np.random.default_rng(7)
    labels = rng.normal([5000, 2.5], [300, 0.5], (N_STARS, 2))
    slopes = rng.normal(0, 0.02, (2, N_PIXELS))
    flux = 1 + (labels - [5000, 2.5]) / [300, 0.5] @ slopes + rng.normal(0, ERROR, (N_STARS, N_PIXELS))
    ids = np.array([f"star {n}" for n in range(N_STARS)])
    given = dict(zip(NAMES, labels.T, strict=True))
    return Spectra(flux, np.full(flux.shape, ERROR**-2), np.linspace(5000, 5100, N_PIXELS), ids, given, {"TEFF": "K"})


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("trained")
    write_spectra(folder / "spectra.nc", _simulated())
    (folder / "recipe.toml").write_text(RECIPE.replace("HELD_OUT", "1"))
    return folder, run("train", folder, "--output", folder / "out")


def test_a_recipe_trains_local_models_beside_the_one_model(trained):
    folder, result = trained
    assert result.exit_code == 0, result.output
    assert "in regions 2 (order 1):" in result.output
    one = read_table(folder / "out" / "sim-labels.ecsv")
    local = read_table(folder / "out" / "sim-local-labels.ecsv")
    assert list(one["star_id"]) == list(local["star_id"])
    assert "population" in local.meta["ERRORS"]
    for name in NAMES:
        # Of a linear model the labels of highest likelihood are those of one model; the prior draws them together.
        np.testing.assert_allclose(local[f"{name}_LIKELIHOOD"], one[name], atol=1.5 * np.median(one[f"{name}_ERR"]))
        assert np.all(local[f"{name}_ERR"] < one[f"{name}_ERR"] * 1.2)
        assert str(local[f"{name}_LIKELIHOOD"].unit) == str(local[name].unit)
        difference = np.asarray(local[name] - local[f"{name}_REFERENCE"])
        assert difference.std() < 1.1 * np.asarray(one[name] - one[f"{name}_REFERENCE"]).std()


def test_infer_takes_local_models_as_it_takes_one(trained, tmp_path):
    folder, _ = trained
    model = folder / "out" / "sim-local.model"
    result = run("infer", model, folder / "spectra.nc", "-o", tmp_path / "labels.fits")
    assert result.exit_code == 0, result.output
    assert "of the posterior under the population of the training labels" in result.output
    table, stars = read_table(tmp_path / "labels.fits"), _simulated()
    fit = LocalCannonModel.read(model).fit_labels(stars.flux, stars.ivar)
    np.testing.assert_allclose(table["TEFF"], fit.labels[:, 0], rtol=1e-12)
    np.testing.assert_allclose(table["LOGG_LIKELIHOOD"], fit.likelihood_labels[:, 1], rtol=1e-12)
    described = run("info", model)
    assert described.exit_code == 0, described.output
    assert "2 of order 1 (weight 1.00)" in described.output


@pytest.mark.parametrize("option", [["--error-budget"], ["--prior", "gaussian"]])
def test_options_of_one_model_are_refused_with_local_models(trained, tmp_path, option):
    folder, _ = trained
    output = tmp_path / "labels.ecsv"
    result = run("infer", folder / "out" / "sim-local.model", folder / "spectra.nc", "-o", output, *option)
    assert result.exit_code != 0
    assert option[0] in result.output
    assert not output.exists()


def test_infer_with_a_prior_keeps_both_estimates(trained, tmp_path):
    folder, _ = trained
    model = folder / "out" / "sim.model"
    result = run("infer", model, folder / "spectra.nc", "-o", tmp_path / "prior.ecsv", "--prior", "gaussian")
    assert result.exit_code == 0, result.output
    plain = run("infer", model, folder / "spectra.nc", "-o", tmp_path / "plain.ecsv")
    assert plain.exit_code == 0, plain.output
    with_prior, without = read_table(tmp_path / "prior.ecsv"), read_table(tmp_path / "plain.ecsv")
    np.testing.assert_allclose(with_prior["TEFF_LIKELIHOOD"], without["TEFF"], rtol=1e-12)
    assert np.all(with_prior["TEFF_ERR"] < without["TEFF_ERR"])
    assert "prior gaussian" in with_prior.meta["ERRORS"]
    assert "prior" not in without.meta["ERRORS"]


@pytest.mark.slow
def test_all_folds_in_turn(tmp_path):
    write_spectra(tmp_path / "spectra.nc", _simulated())
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("HELD_OUT", '"all"'))
    result = run("train", tmp_path, "--output", tmp_path / "out", "--quiet")
    assert result.exit_code == 0, result.output
    table = read_table(tmp_path / "out" / "sim-local-labels.ecsv")
    assert list(table["star_id"]) == [f"star {n}" for n in range(N_STARS)]
    assert len(LocalCannonModel.read(tmp_path / "out" / "sim-local.model").training_set_labels) == N_STARS


def test_files_of_the_other_kind_are_named(trained):
    folder, _ = trained
    with pytest.raises(ValueError, match="holds local models: read it with LocalCannonModel.read"):
        CannonModel.read(folder / "out" / "sim-local.model")
    with pytest.raises(ValueError, match="it holds one model, not local ones"):
        LocalCannonModel.read(folder / "out" / "sim.model")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"partitions": "some"}, r"local\.partitions must be \"auto\", or a list of pairs"),
        ({"partitions": []}, r"local\.partitions"),
        ({"partitions": [[3, 2, 1]]}, r"local\.partitions"),
        ({"partitions": [[0, 2]]}, r"local\.partitions"),
        ({"partitions": [[3, 1.5]]}, r"local\.partitions"),
        ({"regions": 3}, "unknown key 'regions' in \\[local\\]"),
    ],
)
def test_a_wrong_section_is_told_with_its_place(section, message):
    given = {"name": "x", "model": {"label_names": list(NAMES)}, "data": {"spectra": "x.nc"}, "local": section}
    with pytest.raises(ValueError, match=message):
        parse_recipe(given, Path())


def test_local_models_go_with_neither_censors_nor_bounds():
    given = {
        "name": "x", "model": {"label_names": list(NAMES)}, "data": {"spectra": "x.nc"}, "local": {},
        "theta_bounds": {"TEFF": [0.0, 1.0]},
    }  # fmt: skip
    with pytest.raises(ValueError, match="goes neither with"):
        parse_recipe(given, Path())
