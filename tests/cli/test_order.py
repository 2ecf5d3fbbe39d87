"""The order of the polynomial, chosen by a recipe's training spectra."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bayes_cannon.cli import main
from bayes_cannon.io.recipe import parse_recipe
from bayes_cannon.io.spectra import Spectra, write_spectra
from bayes_cannon.model import CannonModel

N_STARS, N_PIXELS, ERROR = 200, 24, 0.02
RECIPE = """
name = "sim"
[model]
label_names = ["TEFF", "LOGG"]
order = ORDER
[data]
spectra = "spectra.nc"
[validation]
folds = 4
held_out = 1
"""


def _write(folder: Path, recipe: str) -> None:
    rng = np.random.default_rng(7)
    labels = rng.normal([5000, 2.5], [300, 0.5], (N_STARS, 2))
    x = (labels - [5000, 2.5]) / [300, 0.5]
    slopes, curvature = rng.normal(0, 0.02, (2, N_PIXELS)), rng.normal(0, 0.02, N_PIXELS)
    flux = 1 + x @ slopes + x[:, :1] * x[:, 1:] * curvature + rng.normal(0, ERROR, (N_STARS, N_PIXELS))
    ids = np.array([f"star {n}" for n in range(N_STARS)])
    given = dict(zip(("TEFF", "LOGG"), labels.T, strict=True))
    spectra = Spectra(flux, np.full(flux.shape, ERROR**-2), np.linspace(5000, 5100, N_PIXELS), ids, given, {})
    write_spectra(folder / "spectra.nc", spectra)
    (folder / "recipe.toml").write_text(recipe)


def test_auto_says_what_was_tried_and_takes_the_best(tmp_path):
    bounds = '[scatter]\nfamily = "full"\n[theta_bounds]\n"TEFF^2" = [-0.5, 0.5]\n'
    _write(tmp_path, RECIPE.replace("ORDER", '"auto"') + bounds)
    result = CliRunner().invoke(main, ["train", str(tmp_path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    first = next(n for n, line in enumerate(lines) if line.split()[:3] == ["order", "regularization", "n_terms"])
    assert [line.split()[0] for line in lines[first + 2 : first + 6]] == ["1", "2", "3", "4"]
    assert "chosen by held-out training spectra: order 2" in lines
    assert any("directions of a full covariance" in line for line in lines)
    model = CannonModel.read(tmp_path / "out/sim.model")
    assert model.vectorizer.n_terms == 6
    assert model.theta_bounds == {"TEFF^2": (-0.5, 0.5)}
    assert len(model.training_set_labels) < N_STARS


def test_penalties_of_a_list_are_tried_with_the_order(tmp_path):
    _write(tmp_path, RECIPE.replace("ORDER", "2\nregularization = [0.0, 1e9]"))
    result = CliRunner().invoke(main, ["train", str(tmp_path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "chosen by held-out training spectra: order 2\n" in result.stdout
    assert CannonModel.read(tmp_path / "out/sim.model").regularization == 0.0


def test_an_order_that_the_stars_do_not_allow_is_told(tmp_path):
    _write(tmp_path, RECIPE.replace("ORDER", "20\nregularization = [0.0, 10.0]"))
    result = CliRunner().invoke(main, ["train", str(tmp_path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "order 20: 231 terms without a penalty need more than 231 stars" in result.stderr


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"order": "best"}, "model.order must be an integer of 1 or more, or \"auto\"; got 'best'"),
        ({"order": 0}, "model.order must be an integer of 1 or more"),
        ({"order": "auto", "terms": "TEFF"}, "has both order and terms"),
        ({"regularization": []}, "model.regularization must be a number of 0 or more, or a list of at least one"),
        ({"regularization": [1.0, -1.0]}, r"model.regularization\[1\] must be a number of 0 or more; got -1.0"),
        ({"regularization": [1.0], "terms": "TEFF"}, r"goes neither with \[local\] nor with terms"),
    ],
)
def test_a_wrong_section_is_told_with_its_place(section, message):
    given = {"name": "x", "model": {"label_names": ["TEFF", "LOGG"]} | section, "data": {"spectra": "x.nc"}}
    with pytest.raises(ValueError, match=message):
        parse_recipe(given, Path())
