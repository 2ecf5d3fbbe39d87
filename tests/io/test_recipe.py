"""Recipes: every key is checked, every error names its place, and the shipped ones are valid."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import bayes_cannon
from bayes_cannon.io.recipe import parse_recipe, read_recipe
from bayes_cannon.io.recipe_checks import check_data
from bayes_cannon.io.shipped import find_recipe, models_folder
from bayes_cannon.scatter import Full, LowRank

FULL = """
name = "all"
description = "Every key."
seed = 7

[model]
label_names = ["TEFF", "FE_H"]
order = 3
regularization = 10
scale_factor = 2.0
op_method = "powell"
dof_correction = true
label_units = { TEFF = "K" }

[data]
source = "file"
spectra = "data/spectra.nc"
labels = "labels.csv"
id_column = "ID"
log_flux = true
wavelength_range = [4000, 5000.0]
cuts.TEFF = { above = 4000, below = inf }

[censors.FE_H]
censored = [[-inf, 4100.0], [4200.0, 4300.0]]

[censors.TEFF]
kept = [[4000.0, 4500.0]]

[theta_bounds]
"FE_H^2" = [-inf, 0.0]

[continuum]
pixels = [0, 5, 9]
L = 1000.0
order = 2
regions = [[4000.0, 5000.0]]

[validation]
folds = 10
held_out = 9
"""

MINIMAL = """
name = "small"
[model]
label_names = ["TEFF"]
[data]
spectra = "s.npz"
"""


@pytest.fixture
def written(tmp_path):
    """Write a recipe to a file and read it."""

    def write_and_read(text: str):
        (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
        return read_recipe(tmp_path / "recipe.toml")

    return write_and_read


def test_every_key_arrives(written, tmp_path):
    recipe = written(FULL)
    assert (recipe.name, recipe.seed, recipe.description) == ("all", 7, "Every key.")
    assert recipe.model.label_names == ("TEFF", "FE_H")
    assert recipe.model.regularization == 10.0
    assert isinstance(recipe.model.regularization, float)
    assert recipe.data.cuts == {"TEFF": {"above": 4000.0, "below": float("inf")}}
    assert recipe.censors["FE_H"].censored == ((-float("inf"), 4100.0), (4200.0, 4300.0))
    assert recipe.censors["TEFF"].kept == ((4000.0, 4500.0),)
    assert recipe.theta_bounds == {"FE_H^2": (-float("inf"), 0.0)}
    assert recipe.continuum.pixels == (0, 5, 9)
    assert (recipe.validation.folds, recipe.validation.held_out) == (10, 9)
    assert recipe.resolve(recipe.data.spectra) == tmp_path / "data/spectra.nc"
    assert recipe.resolve("/elsewhere/s.nc") == Path("/elsewhere/s.nc")


def test_small_recipe_has_the_defaults(written):
    recipe = written(MINIMAL)
    assert recipe.data.source == "file"
    assert recipe.model.order == 2
    assert recipe.validation is None
    assert recipe.continuum is None


def _nested(section: object) -> list[object]:
    if not is_dataclass(section):
        return []
    return [section, *(part for field in fields(section) for part in _nested(getattr(section, field.name)))]


@pytest.mark.parametrize("text", [FULL, MINIMAL])
def test_recipes_cannot_be_changed(written, text):
    for section in _nested(written(text)):
        with pytest.raises(AttributeError):
            setattr(section, fields(section)[0].name, 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "all"', 'nme = "all"', r"unknown key 'nme' in the top of the recipe; did you mean 'name'\?"),
        ("order = 3", "ordr = 3", r"unknown key 'ordr' in \[model\]; did you mean 'order'\?"),
        ("[continuum]", "[continum]", "unknown key 'continum' .* did you mean 'continuum'"),
        ("pixels =", "pixel =", r"unknown key 'pixel' in \[continuum\]; did you mean 'pixels'"),
        ("censored =", "censord =", r"unknown key 'censord' in \[censors\.FE_H\]; did you mean 'censored'"),
        ("held_out = 9", "zzz = 9", r"unknown key 'zzz' in \[validation\]; known are folds, held_out"),
        ("{ above = 4000, below = inf }", "{ over = 4000 }", r"data\.cuts\.TEFF must be a table with above"),
        ('name = "all"', "", "the key 'name' is missing in the top"),
        ('label_names = ["TEFF", "FE_H"]', "", r"the key 'label_names' is missing in \[model\]"),
        ('label_names = ["TEFF", "FE_H"]', 'label_names = ["TEFF", "TEFF"]', "a list of different texts"),
        ('label_names = ["TEFF", "FE_H"]', 'label_names = "TEFF"', "model.label_names must be a list of different"),
        ("order = 3", "order = 2.0", "model.order must be an integer of 1 or more, or \"auto\"; got 2.0"),
        ("order = 3", "order = true", "model.order must be an integer"),
        ("regularization = 10", "regularization = -1", "model.regularization must be a number of 0 or more; got -1"),
        ("regularization = 10", "regularization = nan", "model.regularization must be"),
        ("scale_factor = 2.0", "scale_factor = 0", "model.scale_factor must be a positive number"),
        ("dof_correction = true", "dof_correction = 1", "model.dof_correction must be true or false; got 1"),
        ('TEFF = "K"', "TEFF = 1", "model.label_units.TEFF must be a text"),
        ('TEFF = "K"', 'TEF = "K"', r"\[model\.label_units\] names 'TEF', which is no label"),
        ('source = "file"', 'source = "files"', "data.source must be one of 'file', 'gaia-xp'; got 'files'"),
        ("[4000, 5000.0]", "[5000, 4000.0]", "data.wavelength_range must be a pair"),
        ("[4000, 5000.0]", "[4000]", "data.wavelength_range must be a pair"),
        ("above = 4000", 'above = "4000"', r"data\.cuts\.TEFF\.above must be a number; got '4000'"),
        ("above = 4000", "finite = false", r"data\.cuts\.TEFF\.finite must be true, or left out; got False"),
        ("above = 4000", "is = []", r"data\.cuts\.TEFF\.is must be a text or a number, or a list"),
        ("above = 4000", 'without = "LOW"', r"data\.cuts\.TEFF\.without must be a list of bits by name or number"),
        ("above = 4000", 'without = ["A"]', r"data\.cuts\.TEFF\.without: TEFF has no bit 'A'; no names of its bits"),
        ("cuts.TEFF", 'cuts.STARFLAG.without = ["LOWSNR"]\ncuts.TEFF', r"without: .*did you mean 'LOW_SNR'\?"),
        ('id_column = "ID"', 'duplicates = "last"', "data.duplicates must be one of 'refuse', 'first', 'best'"),
        ('id_column = "ID"', 'duplicates = "best"', r"\[data\] duplicates = 'best' and best_by, .* go together"),
        ('id_column = "ID"', 'best_by = "SNR"', r"\[data\] duplicates = 'best' and best_by, .* go together"),
        ('id_column = "ID"', 'unmatched = "drop"', "data.unmatched must be one of 'refuse', 'leave out'"),
        ('id_column = "ID"', "columns = [1]", "data.columns must be a table of texts"),
        ("[4200.0, 4300.0]]", "4200.0]", r"censors\.FE_H\.censored\[1\] must be a pair"),
        ("[censors.TEFF]", "[censors.LOGG]", r"\[censors\] names 'LOGG', which is no label"),
        ("kept = [[4000.0, 4500.0]]", "", r"\[censors\.TEFF\] needs either censored or kept"),
        ("pixels = [0, 5, 9]", "pixels = []", "continuum.pixels must be a list of indices"),
        ("pixels = [0, 5, 9]", "pixels = [0, 5]\nevery = 2", "needs one of pixels, every and running_mean, got pixels"),
        ("pixels = [0, 5, 9]", "running_mean = 50.0", r"\[continuum\] with running_mean takes no '"),
        ("held_out = 9", "held_out = 'some'", "held_out"),
        ("folds = 10", "folds = 1", "validation.folds must be an integer of 2 or more"),
        ("held_out = 9", "held_out = 10", "held_out = 10 must be below folds = 10"),
        ("seed = 7", "seed = -1", "seed must be an integer of 0 or more"),
        ('name = "all"', 'name = "../all"', "name must be a text that can begin a file's name"),
        ("order = 3", 'order = 3\nterms = "TEFF"', "both order and terms"),
        ("log_flux = true", 'noise = "none"', "data.noise must be one of 'quoted', 'constant'; got 'none'"),
        ('source = "file"', 'source = "gaia-xp"', "takes no 'labels'"),
        ("[validation]", '[data.bad_rows]\nrule = "colour-relations"\n[validation]', "needs source = 'gaia-xp'"),
        ("[validation]", '[data.bad_rows]\nrule = "colours"\n[validation]', "data.bad_rows.rule must be one of"),
        ("seed = 7", "seed = ", "is no valid TOML"),
    ],
)  # fmt: skip
def test_mistake_is_named_with_file_section_and_key(written, old, new, said):
    assert old in FULL
    with pytest.raises(ValueError, match=said) as caught:
        written(FULL.replace(old, new, 1))
    assert "recipe.toml" in str(caught.value)


def test_a_catalogue_and_its_cuts(written):
    more = """labels = "allStar.fits[1]"
    columns = { TEFF = "FPARAM[0]" }
    duplicates = "best"
    best_by = "SNR"
    unmatched = "leave out"
    missing = [-9999]
    cuts.STARFLAG = { without = ["PERSIST_HIGH", 4] }
    cuts.TELESCOPE = { is = "apo25m" }
    cuts.GOOD = { is = [true, 2], finite = true }
    """
    data = written(MINIMAL.replace("spectra =", more + "spectra =")).data
    assert (data.labels, data.duplicates, data.best_by, data.unmatched) == (
        "allStar.fits[1]",
        "best",
        "SNR",
        "leave out",
    )
    assert data.columns == {"TEFF": "FPARAM[0]"}
    assert data.cuts == {
        "STARFLAG": {"without": ("PERSIST_HIGH", 4)}, "TELESCOPE": {"is": ("apo25m",)},
        "GOOD": {"is": (True, 2), "finite": True},
    }  # fmt: skip


def test_rules_of_matching_need_a_catalogue(written):
    with pytest.raises(ValueError, match=r"\[data\] unmatched is about a table of labels: give its path as 'labels'"):
        written(MINIMAL.replace("spectra =", 'unmatched = "leave out"\nspectra ='))


def test_files_and_labels_that_are_named_later(written, tmp_path, monkeypatch):
    bare = written(MINIMAL.replace("spectra = ", 'columns = { A = "a" }\n#'))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"names no spectra: give the files, as in bayes-cannon train RECIPE FILES"):
        check_data(bare)
    with pytest.raises(ValueError, match=r"\[data\] columns is about a table of labels: .* --labels TABLE"):
        check_data(bare.with_files(["a.fits"]))
    whole = bare.with_files(["a.fits", "@list", "/b/*.fits"], "table.csv")
    check_data(whole)
    assert whole.spectra == [tmp_path / "a.fits", Path(f"@{tmp_path / 'list'}"), Path("/b/*.fits")]
    assert whole.resolve(whole.data.labels or "") == tmp_path / "table.csv"
    # What the recipe names is taken where nothing else is.
    assert whole.with_files() == whole
    with pytest.raises(ValueError, match="one file at most"):
        check_data(read_recipe("gaia-xp-giants").with_files(["a.fits", "b.fits"]))


def test_recipe_by_file_folder_and_name(tmp_path):
    (tmp_path / "recipe.toml").write_text(MINIMAL)
    assert find_recipe(tmp_path) == find_recipe(tmp_path / "recipe.toml")
    assert find_recipe("gaia-xp-giants") == models_folder() / "gaia-xp-giants" / "recipe.toml"
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no recipe\.toml"):
        find_recipe(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="did you mean 'gaia-xp-giants'"):
        find_recipe("gaia-xp-giant")


def test_shipped_recipes_are_valid():
    found = sorted(models_folder().glob("*/recipe.toml"))
    assert "gaia-xp-giants" in {path.parent.name for path in found}
    for path in found:
        assert read_recipe(path).name == path.parent.name


def test_installed_package_finds_its_recipes_inside(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "bayes_cannon"
    (package / "_models" / "mine").mkdir(parents=True)
    (package / "_models" / "mine" / "recipe.toml").write_text(MINIMAL)
    monkeypatch.setattr(bayes_cannon, "__file__", str(package / "__init__.py"))
    assert bayes_cannon.__file__.startswith(str(tmp_path))
    assert read_recipe("mine").name == "small"


def test_not_utf8(tmp_path):
    (tmp_path / "r.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ValueError, match="no valid TOML"):
        read_recipe(tmp_path / "r.toml")


def test_parsed_without_a_file():
    with pytest.raises(ValueError, match=r"\[data\] must be a table"):
        parse_recipe({"name": "x", "model": {"label_names": ["A"]}, "data": []}, Path())


def test_scatter_section(written):
    recipe = written(MINIMAL + "[scatter]\nrank = 7\nheavy_tails = true\n")
    assert (recipe.scatter.rank, recipe.scatter.heavy_tails) == (7, True)
    assert recipe.scatter.scatter == LowRank(7, heavy_tails=True)
    assert written(MINIMAL).scatter is None
    recipe = written(MINIMAL + '[scatter]\nfamily = "full"\nheavy_tails = true\nshrinkage = 0.1\n')
    assert recipe.scatter.scatter == Full(0.1, heavy_tails=True)
    assert written(MINIMAL + '[scatter]\nfamily = "auto"\n').scatter.scatter == "auto"
    for section, message in (
        ('family = "auto"\nrank = 3', "family = 'auto' takes no 'rank'"),
        ('family = "full"\nrank = 3', "family = 'full' takes no 'rank'"),
        ("rank = 3\nshrinkage = 0.1", "family = 'low-rank' takes no 'shrinkage'"),
        ("heavy_tails = true", "needs the key 'rank'"),
        ('family = "full"\nshrinkage = 2.0', r"\[scatter\]: shrinkage must be from 0 to 1"),
        ('family = "fall"', "scatter.family must be one of 'low-rank', 'full', 'auto'"),
    ):
        with pytest.raises(ValueError, match=message):
            written(MINIMAL + f"[scatter]\n{section}\n")
    with pytest.raises(ValueError, match="dof_correction is for independent scatter"):
        written(MINIMAL.replace("[data]", "dof_correction = true\n[data]") + "[scatter]\nrank = 7\n")
    with pytest.raises(ValueError, match=r"scatter.rank must be"):
        written(MINIMAL + "[scatter]\nrank = 0\n")


@pytest.mark.parametrize("text", ["x = " + "[" * 50000, "name = 'a'\nseed = " + "9" * 5000, "name = '\0'", "[[["])
def test_whatever_is_wrong_with_the_text_names_the_file(text, tmp_path):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ValueError, match=r"r\.toml"):
        read_recipe(tmp_path / "r.toml")


def test_a_number_that_is_too_large_names_the_file(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE_TOO_LARGE)
    with pytest.raises(ValueError, match=r"r\.toml"):
        read_recipe(tmp_path / "r.toml")


RECIPE_TOO_LARGE = f"name = 'a'\n[model]\nlabel_names = ['A']\nregularization = {10**400}\n[data]\nspectra = 's.nc'\n"
