"""Labels of the spectra in a data frame, as Dask and LSDB ask for them."""

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import bayes_cannon as tc

pd = pytest.importorskip("pandas")


def frame(training: Any, n: int = 12) -> Any:
    return pd.DataFrame(
        {"id": [f"s{k}" for k in range(n)], "flux": list(training.flux[:n]), "ra": np.linspace(0, 1, n),
         "ivar": [row.tolist() for row in training.ivar[:n]]},
        index=np.arange(n) + 100,
    )  # fmt: skip


def test_labels_stand_beside_the_other_columns(trained: tc.CannonModel, training: Any) -> None:
    given = frame(training)
    found = trained.label_frame(given)
    fit = trained.fit_labels(training.flux[:12], training.ivar[:12])
    assert found.columns[:4].tolist() == ["id", "ra", "TEFF", "TEFF_ERR"]
    assert found.index.tolist() == given.index.tolist()
    for k, name in enumerate(trained.label_names):
        np.testing.assert_allclose(found[name], fit.labels[:, k], rtol=1e-10)
        np.testing.assert_allclose(found[f"{name}_ERR"], np.sqrt(fit.covariance[:, k, k]), rtol=1e-10)
    assert found["status"].tolist() == fit.status.tolist()
    assert list(given.columns) == ["id", "flux", "ra", "ivar"]


def test_no_rows_give_the_same_columns_and_types(trained: tc.CannonModel, training: Any) -> None:
    whole, none = trained.label_frame(frame(training)), trained.label_frame(frame(training).head(0))
    assert len(none) == 0
    assert none.dtypes.to_dict() == whole.dtypes.to_dict()


def test_rows_without_a_spectrum_have_no_labels(trained: tc.CannonModel, training: Any) -> None:
    given = frame(training)
    given.at[101, "flux"] = None
    given.at[103, "ivar"] = pd.NA
    found = trained.label_frame(given)
    assert found["TEFF"].isna().tolist() == [k in (1, 3) for k in range(12)]
    assert (found.loc[[101, 103], "n_pixels"] == 0).all()


def test_what_does_not_fit_is_named(trained: tc.CannonModel, training: Any) -> None:
    given = frame(training)
    with pytest.raises(ValueError, match="the frame has no column 'f'; it has id, flux, ra, ivar"):
        trained.label_frame(given, flux="f")
    with pytest.raises(ValueError, match="has a column 'TEFF' already"):
        trained.label_frame(given.assign(TEFF=1.0))
    given.at[104, "flux"] = np.ones(3)
    with pytest.raises(ValueError, match=r"'flux' of row 104 of the frame must have 60 pixels.*\(3,\)"):
        trained.label_frame(given)
    given.at[104, "flux"] = "none"
    with pytest.raises(ValueError, match="'flux' of row 104 of the frame holds no numbers"):
        trained.label_frame(given)


def test_a_model_that_was_used_and_pickled_gives_the_same_bits(trained: tc.CannonModel, training: Any) -> None:
    fit = trained.fit_labels(training.flux, training.ivar)
    again = pickle.loads(pickle.dumps(trained)).fit_labels(training.flux, training.ivar)
    np.testing.assert_array_equal(again.labels, fit.labels)


def test_partitions_of_a_dask_frame(trained: tc.CannonModel, training: Any) -> None:
    dd = pytest.importorskip("dask.dataframe")
    import dask

    given = frame(training)
    with dask.config.set({"dataframe.convert-string": False}):
        parts = dd.from_pandas(given, npartitions=3)
        label = pickle.loads(pickle.dumps(trained.label_frame))
        found = parts.map_partitions(label, meta=trained.label_frame(given.head(0))).compute(scheduler="synchronous")
    expected = trained.label_frame(given)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-10)


def test_columns_of_lists_of_arrow(trained: tc.CannonModel, training: Any) -> None:
    pa = pytest.importorskip("pyarrow")
    given = frame(training)
    lists = pd.ArrowDtype(pa.list_(pa.float64()))
    arrow = given.assign(**{name: pd.Series(list(given[name]), given.index, dtype=lists) for name in ("flux", "ivar")})
    pd.testing.assert_frame_equal(trained.label_frame(arrow), trained.label_frame(given))


def test_pandas_is_not_imported() -> None:
    code = "import sys, bayes_cannon.model.frames; print([m for m in ('dask', 'lsdb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
