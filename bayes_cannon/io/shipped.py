"""Recipes and models that the package ships, by name, and those of the user, by path."""

import os
from difflib import get_close_matches
from pathlib import Path

import bayes_cannon

RECIPE_FILE = "recipe.toml"


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


def find_model(model: str | os.PathLike) -> Path:
    """Path of the model file that a path or the name of a shipped model stands for; that itself if it is neither."""
    path, folder = Path(model), models_folder()
    shipped = folder / str(model) / f"{model}.model"
    return shipped if not path.exists() and path.name == str(model) and shipped.is_file() else path


def models_folder() -> Path:
    """Folder of the shipped recipes: inside the installed package, or next to it in a source tree."""
    package = Path(bayes_cannon.__file__).parent
    installed = package / "_models"
    return installed if installed.is_dir() else package.parent / "models"
