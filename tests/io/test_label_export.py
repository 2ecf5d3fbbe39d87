"""The catalogue of a store of labels: the columns of the label table, in pieces as in one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table, vstack

import bayes_cannon as tc
from bayes_cannon.io import label_export
from bayes_cannon.io.label_export import export_labels, shards_table
from bayes_cannon.io.label_store import open_labels

SUFFIXES = (".fits", ".ecsv", ".parquet")


@pytest.fixture(scope="module")
def labels(trained: tc.CannonModel, training: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of 200 stars in shards of 64, with an error budget; names get longer from shard to shard."""
    pytest.importorskip("zarr")
    folder = tmp_path_factory.mktemp("labels")
    names = np.array([f"{'long ' * (k // 64)}{k}" for k in range(200)])
    field = np.array([f"F{k % 7}" for k in range(200)])
    spectra = tc.io.Spectra(training.flux, training.ivar, training.dispersion, names, identifiers={"FIELD": field})
    tc.io.write_spectra(folder / "stars.nc", spectra)
    tc.io.ingest(folder / "stars.nc", folder / "stars.zarr", shard_size=64)
    trained.label_store(folder / "stars.zarr", folder / "labels.zarr", error_budget=True)
    return folder / "labels.zarr"


@pytest.fixture(scope="module")
def expected(labels: Path, trained: tc.CannonModel) -> Table:
    """The table of all stars at once, as the command infer makes it."""
    spectra = tc.io.read_spectra(labels.with_name("stars.zarr"))
    fit = trained.fit_labels(spectra.flux, spectra.ivar)
    budget = trained.error_budget(spectra.flux, spectra.ivar, fit).columns(trained.label_names)
    extra = {name: values for name, values in budget.items() if not name.endswith("_TOTAL")}
    return tc.io.label_table(
        trained.label_names, fit, star_id=spectra.ids, identifiers=spectra.identifiers,
        label_units=trained.label_units, extra=extra,
    )  # fmt: skip


def check_same(found: Table, expected: Table, but: tuple[str, ...] = ()) -> None:
    assert found.colnames == [name for name in expected.colnames if name not in but]
    for name in found.colnames:
        assert str(found[name].unit) == str(expected[name].unit)
        if expected[name].dtype.kind == "U":
            assert found[name].tolist() == expected[name].tolist()
        else:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(("least", "pieces"), [(1, [64, 64, 64, 8]), (65, [128, 72]), (16_384, [200])])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_catalogue_is_the_label_table(
    labels: Path, expected: Table, tmp_path: Path, suffix: str, least: int, pieces: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(label_export, "_ROWS", least)
    path, rows = tmp_path / f"labels{suffix}", []
    assert export_labels(labels, path, progress=rows.append) == 200
    assert rows == pieces
    found = tc.io.read_table(path)
    check_same(found, expected, ("covariance",) if suffix == ".parquet" else ())
    about = open_labels(labels).about["meta"]
    assert {name: str(value) for name, value in found.meta.items() if name in about} == about


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pieces_are_as_one_file(
    labels: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(label_export, "_ROWS", 1)
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    store = open_labels(labels)
    whole = vstack([shards_table(store, [number]) for number in range(store.shards)], metadata_conflicts="silent")
    export_labels(labels, tmp_path / f"pieces{suffix}")
    tc.io.write_table(tmp_path / f"whole{suffix}", whole)
    check_same(
        tc.io.read_table(tmp_path / f"pieces{suffix}"), tc.io.read_table(tmp_path / f"whole{suffix}")
    )  # fmt: skip


def test_the_fits_file_is_valid(labels: Path, tmp_path: Path) -> None:
    from astropy.io import fits

    export_labels(labels, tmp_path / "labels.fits")
    assert (tmp_path / "labels.fits").stat().st_size % 2880 == 0
    with fits.open(tmp_path / "labels.fits") as hdus:
        hdus.verify("exception")
        assert hdus[1].header["NAXIS2"] == len(hdus[1].data) == 200
        assert hdus[1].header["MODELSHA"] == open_labels(labels).about["meta"]["MODELSHA"]


def test_a_store_that_lacks_shards_is_refused_unless_asked_for(
    labels: Path, tmp_path: Path, copy: Callable[[Path, Path], None]
) -> None:  # fmt: skip
    part = tmp_path / "part.zarr"
    copy(labels, part)
    (part / "snr" / "c.1").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 shards of .*part\.zarr are missing"):
        export_labels(part, tmp_path / "labels.fits")
    assert not (tmp_path / "labels.fits").exists()
    assert export_labels(part, tmp_path / "labels.fits", partial=True) == 136
    names = tc.io.read_table(tmp_path / "labels.fits")["star_id"].tolist()
    assert names[:2] == ["0", "1"]
    assert names[64] == "long long 128"
    for number in range(4):
        (part / "snr" / f"c.{number}").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"no shard of .* is written yet"):
        export_labels(part, tmp_path / "none.fits", partial=True)


def test_other_formats_and_files_that_exist_are_refused(labels: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"exported as \.fits, \.ecsv, \.parquet; got .*labels\.vot"):
        export_labels(labels, tmp_path / "labels.vot")
    (tmp_path / "labels.ecsv").write_text("mine")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        export_labels(labels, tmp_path / "labels.ecsv")
    assert export_labels(labels, tmp_path / "labels.ecsv", overwrite=True) == 200


@pytest.fixture
def copy() -> Callable[[Path, Path], None]:
    import shutil

    return lambda one, other: shutil.copytree(one, other)
