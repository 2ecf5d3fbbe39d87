"""What the commands sample and diagnose do: a model becomes a posterior, and a posterior tables and a figure."""

import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import xarray as xr
from astropy.table import Table

from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.io.atomic import atomic_path, check_output_path
from bayes_cannon.io.posterior_tree import read_posterior
from bayes_cannon.io.tables import write_table
from bayes_cannon.model import CannonModel

MAX_CHECKED = 200
"""Largest number of flagged pixels that ArviZ checks: it takes 5 ms per parameter."""
_GOOD = (PosteriorStatus.CONVERGED, PosteriorStatus.RETRIED)
_DPI = 150


def run_sampling(
    model: Path, output: Path, *, write_model: Path | None, method: str, n_chains: int | None, n_warmup: int | None,
    n_draws: int | None, pixels: tuple[int, int] | None, seed: int, keep_draws: bool | None, overwrite: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Sample the model of a file into a Zarr store, write the model with its posterior, and print how it went."""
    if write_model is not None:
        if write_model.exists() and not overwrite:
            # Not "pass --overwrite", which would sample anew and replace the store too.
            raise FileExistsError(f"{write_model} exists; remove it, or choose another name")
        check_output_path(write_model, overwrite=overwrite)
    counts = {"n_chains": n_chains, "n_warmup": n_warmup, "n_draws": n_draws}
    options: dict[str, Any] = {name: count for name, count in counts.items() if count is not None}
    if pixels is not None:
        options["pixels"] = np.arange(pixels[0], pixels[1] + 1)
    trained, resumed = CannonModel.read(model), output.exists() and not overwrite
    trained.integrate_theta = True
    start = time.monotonic()
    tree = trained.sample(
        key=seed, method=method, store=output, keep_draws=keep_draws, overwrite=overwrite,
        progress=None if quiet else True, **options,
    )  # fmt: skip
    seconds = time.monotonic() - start
    summary = tree["summary"].to_dataset().load()
    if not quiet:
        click.echo(f"{model}: sampled {summary.sizes['pixel']} pixels in {seconds:.0f} s by {method}")
        _print_statuses(summary)
        ess = _worst(summary["ess_bulk"].to_numpy(), -1)
        if np.isfinite(ess).any():
            rate = "" if resumed else f", {np.nansum(ess) / seconds:.0f} a second over all pixels"
            click.echo(f"smallest bulk ESS of a pixel: {np.nanmin(ess):.0f}, median {np.nanmedian(ess):.0f}{rate}")
    click.echo(f"wrote {output}")
    if write_model is not None:
        trained.write(write_model, include_training_set_spectra=True, overwrite=overwrite)
        click.echo(f"wrote {write_model}")


def run_diagnosis(posterior: Path, folder: Path, *, checked: int, seed: int, overwrite: bool, quiet: bool) -> None:
    """Screen a posterior, let ArviZ check some of its pixels, and write tables and a figure."""
    tree = read_posterior(posterior)
    names = {"pixels": "pixels.ecsv", "arviz": "arviz.ecsv", "figure": "diagnostics.png"}
    paths = {what: folder / f"{posterior.stem}-{name}" for what, name in names.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths.values():
        check_output_path(path, overwrite=overwrite)
    summary = tree["summary"].to_dataset().load()
    table = pixel_table(summary)
    rows = _rows_to_check(table, checked, np.random.default_rng(seed))
    found = None
    if "posterior" in tree.children and len(rows):
        found, (r_hat, ess) = check_with_arviz(tree, rows)
        for name, values in (("arviz_r_hat", r_hat), ("arviz_ess_bulk", ess)):
            table[name] = np.full(len(table), np.nan)
            table[name][rows] = values
        write_table(paths["arviz"], found, overwrite=overwrite)
    write_table(paths["pixels"], table, overwrite=overwrite)
    _write_figure(tree, paths["figure"], overwrite=overwrite)
    if not quiet:
        _print_screen(posterior, summary, table, found is not None)
    for path in paths.values():
        if path.exists():
            click.echo(f"wrote {path}")


def pixel_table(summary: xr.Dataset) -> Table:
    """One row per pixel: s, the worst diagnostics of its parameters, and whether it is flagged."""
    ess_bulk, ess_tail = (_worst(summary[name].to_numpy(), -1) for name in ("ess_bulk", "ess_tail"))
    status = summary["status"].to_numpy()
    table = Table({"pixel": summary["pixel"].to_numpy()})
    if "wavelength" in summary.coords:
        table["wavelength"] = summary["wavelength"].to_numpy()
    for name in ("s_mean", "s_sd"):
        table[name] = summary[name].to_numpy()
    table["r_hat"] = _worst(summary["r_hat"].to_numpy(), 1)
    table["ess_bulk"], table["ess_tail"] = ess_bulk, ess_tail
    for name in ("k_hat", "divergent", "deep", "n_steps", "finished"):
        table[name] = summary[name].to_numpy()
    table["status"] = status
    table["status_text"] = np.array([PosteriorStatus(int(one)).message for one in status], dtype=str)
    table["flagged"] = ~np.isin(status, _GOOD)
    return table


def check_with_arviz(tree: xr.DataTree, rows: np.ndarray) -> tuple[Table, tuple[np.ndarray, np.ndarray]]:
    """ArviZ's summary of some pixels, and the largest R-hat and smallest bulk ESS of each of them."""
    import arviz as az  # Two seconds.

    draws = tree["posterior"].to_dataset().isel(pixel=rows).load()
    worst = []
    with warnings.catch_warnings():
        # Censored terms never move, so that ArviZ divides zero by zero.
        warnings.simplefilter("ignore", RuntimeWarning)
        for statistic, sign in ((az.rhat, 1), (az.ess, -1)):
            values = statistic(draws)
            both = np.concatenate([values["s"].to_numpy()[:, None], values["theta"].to_numpy()], axis=1)
            moves = (draws["theta"].max(("chain", "draw")) > draws["theta"].min(("chain", "draw"))).to_numpy()
            both[:, 1:][~moves] = np.nan
            worst.append(_worst(both, sign))
        frame = az.summary(draws, round_to="none")
    table = Table({"parameter": np.array(frame.index, dtype=str)})
    for name in frame.columns:
        table[str(name)] = np.asarray(frame[name], dtype=float)
    return table, (worst[0], worst[1])


def _worst(values: np.ndarray, sign: int) -> np.ndarray:
    """Largest, or with sign -1 smallest, finite value of each row, shape (pixel,)."""
    known = np.isfinite(values)
    found = sign * np.where(known, sign * values, -np.inf).max(axis=1)
    return np.where(known.any(axis=1), found, np.nan)


def _rows_to_check(table: Table, checked: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of flagged pixels that have draws, the worst first, and of some of the others."""
    has_draws = np.isfinite(table["s_mean"]) & table["finished"]
    flagged = np.flatnonzero(table["flagged"] & has_draws)
    order = np.argsort(-np.nan_to_num(np.asarray(table["r_hat"])[flagged], nan=np.inf), kind="stable")
    others = np.flatnonzero(~table["flagged"] & has_draws)
    chosen = rng.choice(others, min(checked, len(others)), replace=False)
    return np.sort(np.concatenate([flagged[order][:MAX_CHECKED], chosen]).astype(int))


def _write_figure(tree: xr.DataTree, path: Path, *, overwrite: bool) -> None:
    if find_spec("matplotlib") is None:
        click.echo("no figure: it needs Matplotlib, install bayes-cannon[plots]", err=True)
        return
    from bayes_cannon.plot.posterior import theta_posterior  # Matplotlib is an extra.

    with atomic_path(path, overwrite=overwrite) as temporary:
        theta_posterior(tree).savefig(temporary, dpi=_DPI)


def _print_statuses(summary: xr.Dataset) -> None:
    finished = summary["finished"].to_numpy()
    for status, count in zip(*np.unique(summary["status"].to_numpy()[finished], return_counts=True), strict=True):
        click.echo(f"  {count} pixels: {PosteriorStatus(int(status)).message}")
    if not finished.all():
        click.echo(f"  {int((~finished).sum())} pixels: not sampled yet; run the same command sample again to continue")


def _print_screen(posterior: Path, summary: xr.Dataset, table: Table, with_draws: bool) -> None:
    click.echo(f"{posterior}: {len(table)} pixels")
    _print_statuses(summary)
    for name, worst, text in (("r_hat", np.nanmax, "largest R-hat"), ("ess_bulk", np.nanmin, "smallest bulk ESS"),
                              ("k_hat", np.nanmax, "largest k-hat")):  # fmt: skip
        values = np.asarray(table[name])
        if np.isfinite(values).any():
            row = int(np.flatnonzero(values == worst(values))[0])
            click.echo(f"  {text}: {values[row]:.4g}, at pixel {table['pixel'][row]}")
    if not with_draws:
        click.echo("no draws are stored for ArviZ to check: sample with --keep-draws")
        return
    known = np.isfinite(table["arviz_r_hat"])
    away = np.abs(table["arviz_r_hat"] - table["r_hat"])[known]
    away = away[np.isfinite(away)]
    apart = f": its R-hat differs from the stored one by {away.max():.1g} at most" if len(away) else ""
    click.echo(f"ArviZ checked {int(known.sum())} pixels{apart}")
