"""The command train on a store that is larger than the memory it may use."""

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

import bayes_cannon as tc
from bayes_cannon.cli import main
from bayes_cannon.io.spectra import to_dataset
from bayes_cannon.model import store_plan
from bayes_cannon.training.profile import solver

pytest.importorskip("zarr")
RECIPE = """
name = "sim"
[model]
label_names = ["TEFF", "LOGG", "FE_H"]
regularization = 10.0
[data]
divide_by_median = true
[data.cuts]
TEFF = { above = 4100.0 }
[censors.FE_H]
censored = [[16700.0, inf]]
"""
MEMORY = "300kB"


@pytest.fixture
def recipe(tmp_path, training, monkeypatch):
    """A folder with a recipe, a store without labels, and a table of them in another order."""
    monkeypatch.setattr(store_plan, "PROCESS", 0)
    for module in (store_plan, solver):
        monkeypatch.setattr(module, "block_size", lambda *_: 8)
        monkeypatch.setattr(module, "working_memory", lambda *_: (0, 50))
    names = np.array([f"star {n}" for n in range(len(training.labels))])
    spectra = tc.io.Spectra(training.flux, training.ivar, training.dispersion, names, units={"wavelength": "Angstrom"})
    chunks = {name: {"chunks": (16, len(training.dispersion))} for name in ("flux", "ivar")}
    to_dataset(spectra).to_zarr(
        tmp_path / "s.zarr", consolidated=False, zarr_format=3, encoding=chunks, write_empty_chunks=True
    )
    order = np.random.default_rng(0).permutation(len(names))
    columns = dict(zip(("TEFF", "LOGG", "FE_H"), training.labels.T, strict=True)) | {"NAME": names}
    Table({name: values[order] for name, values in columns.items()}).write(tmp_path / "labels.ecsv")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def run(folder, *options):
    return CliRunner().invoke(
        main, ["train", str(folder), str(folder / "s.zarr"), "--labels", str(folder / "labels.ecsv"), *options]
    )


def test_a_large_store_trains_by_blocks_of_pixels(recipe):
    small = run(recipe, "--output", str(recipe / "memory"))
    assert small.exit_code == 0, small.output
    assert "larger than the memory" not in small.stderr
    large = run(recipe, "--output", str(recipe / "blocks"), "--memory", MEMORY)
    assert large.exit_code == 0, large.output
    assert "the store is larger than the memory: " in large.stderr
    assert "through a scratch store of blocks of pixels" in large.stderr
    one, other = (tc.load_model(recipe / folder / "sim.model") for folder in ("memory", "blocks"))
    np.testing.assert_array_equal(other.theta, one.theta)
    np.testing.assert_array_equal(other.s2, one.s2)
    ours, theirs = dict(other.provenance), dict(one.provenance)
    assert (ours.pop("created"), theirs.pop("created")) != ("", "")
    assert ours == theirs
    assert (other.flux_unit, other.dispersion_unit) == (one.flux_unit, one.dispersion_unit)
    assert 0 < len(other.training_set_labels) < 200
    assert sorted(path.name for path in recipe.iterdir()) == [
        "blocks", "labels.ecsv", "memory", "recipe.toml", "s.zarr",
    ]  # fmt: skip


def test_what_needs_all_spectra_at_once_is_refused(recipe):
    said = run(recipe, "--memory", MEMORY, "--with-spectra")
    assert said.exit_code == 1
    assert "--with-spectra keeps all training spectra" in said.stderr
    (recipe / "recipe.toml").write_text(RECIPE + "[validation]\nfolds = 4\n[scatter]\nrank = 2\n")
    said = run(recipe, "--memory", MEMORY)
    assert said.exit_code == 1
    assert "0.000768 GB of memory, more than 0.0003 GB" in said.stderr
    assert "does not go with [scatter]: leave it out" in said.stderr


@pytest.mark.parametrize("held_out", ["1", '"all"'])
@pytest.mark.parametrize("keep", [False, True])
def test_held_out_stars_of_a_large_store_are_labelled(recipe, held_out, keep):
    (recipe / "recipe.toml").write_text(f"{RECIPE}[validation]\nfolds = 3\nheld_out = {held_out}\n")
    scratch = ("--scratch", str(recipe / "scratch")) if keep else ()
    for folder, options in (("memory", ()), ("blocks", ("--memory", "210kB", *scratch))):
        said = run(recipe, "--output", str(recipe / folder), *options)
        assert said.exit_code == 0, said.output
        assert "held-out stars, labelled" in said.stdout
        assert ("through a scratch store" in said.stderr) == (folder == "blocks")
    one, other = (tc.io.read_table(recipe / folder / "sim-labels.ecsv") for folder in ("memory", "blocks"))
    assert other.colnames == one.colnames
    assert len(one) > 40
    for name in one.colnames:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(other[name], one[name], rtol=1e-9, atol=1e-9, err_msg=name)
        else:
            assert other[name].tolist() == one[name].tolist()
    assert other.meta["SPECSHA"] != one.meta["SPECSHA"]
    ours, theirs = (tc.io.read_table(recipe / folder / "sim-validation.ecsv") for folder in ("blocks", "memory"))
    for name in ours.colnames:
        if ours[name].dtype.kind == "f":
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-8, err_msg=name)
    np.testing.assert_array_equal(
        tc.load_model(recipe / "blocks/sim.model").theta, tc.load_model(recipe / "memory/sim.model").theta
    )
    assert (recipe / "scratch").exists() == keep


def test_a_fold_of_a_large_store_without_stars_is_none_as_in_memory(recipe):
    n = 184  # Stars that pass the cut.
    empty = np.setdiff1d(np.arange(n), np.random.default_rng(0).integers(0, n, n))[0]
    (recipe / "recipe.toml").write_text(f"{RECIPE}[validation]\nfolds = {n}\nheld_out = {empty}\n")
    for folder, options in (("memory", ()), ("blocks", ("--memory", MEMORY))):
        said = run(recipe, "--output", str(recipe / folder), *options)
        assert said.exit_code == 0, said.output
        assert [path.name for path in (recipe / folder).iterdir()] == ["sim.model"]


def test_workers_are_for_a_store_that_does_not_fit(recipe):
    said = run(recipe, "--workers", "2")
    assert said.exit_code == 1
    assert "--workers and --scheduler train a store of spectra that does not fit the memory, and these" in said.stderr
    said = run(recipe, "--workers", "2", "--scheduler", "tcp://nowhere:1")
    assert said.exit_code == 2
    assert "give one of them" in said.stderr
    said = run(recipe, "--memory", MEMORY, "--scheduler", "tcp://127.0.0.1:1")
    assert said.exit_code == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in said.stderr


def test_workers_train_a_large_store(recipe, monkeypatch):
    asked, done = [], []

    class Workers(tc.execution.SerialExecutor):
        """Stands for processes, whose tests are those of `execution`."""

        def __init__(self, *, workers, address):
            super().__init__()
            asked.append((workers, address))

        def submit(self, work, number):
            done.append(number)
            super().submit(work, number)

    monkeypatch.setattr(tc.execution, "DaskExecutor", Workers)
    for folder, options in (("one", ()), ("two", ("--workers", "2"))):
        said = run(recipe, "--output", str(recipe / folder), "--memory", MEMORY, *options)
        assert said.exit_code == 0, said.output
    assert asked == [(2, None)]
    assert done
    one, other = (tc.load_model(recipe / folder / "sim.model") for folder in ("one", "two"))
    np.testing.assert_array_equal(other.theta, one.theta)
    np.testing.assert_array_equal(other.s2, one.s2)
