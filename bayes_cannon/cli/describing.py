"""What the command info tells: of a survey's file, of spectra, of a store, finished or not, of a model."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.io.decoding import decode
from bayes_cannon.io.readers.registry import Reader, reader_called, sniff
from bayes_cannon.io.readers.survey_spectra import SurveySpectra
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.io.spectra_store import open_store, unfinished
from bayes_cannon.io.survey_files import has_own_format, read_spectra
from bayes_cannon.io.unfinished_store import UnfinishedStore

_SHOWN = 40
"""Columns that are named."""
_WIDTH = 12
"""Of the names of what is told."""


def describe(path: Path, survey: str | None = None) -> list[str]:
    """Lines about a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If nothing here reads it.

    """
    if path.suffix == ".model":
        return [f"{path}: a model of this package", *_of_model(path)]
    begun = path if path.name.endswith(".unfinished") else unfinished(path)
    if begun.is_dir() and not (path.exists() and path != begun):
        return [f"{path}: an unfinished store", *_of_unfinished(begun)]
    if survey is None and path.suffix.lower() == ".zarr":
        return [f"{path}: a store of spectra of this package", *_of_store(path)]
    if survey is None and has_own_format(path):
        return [f"{path}: spectra of this package", *_of_spectra([read_spectra(path)])]
    reader = sniff(path) if survey is None else reader_called(survey)
    return [f"{path}: {reader.description}", *_of_survey_file(path, reader)]


def _line(name: str, value: object) -> str:
    return f"  {name:{_WIDTH}s} {value}"


def _of_survey_file(path: Path, reader: Reader) -> Iterator[str]:
    yield _line("reader", reader.name)
    for record in reader.read(path):
        which, counts = np.unique(record.which, return_counts=True)
        said = ", ".join(f"{n} {one}" if n > 1 else str(one) for one, n in zip(which, counts, strict=True))
        yield _line("spectra", f"{record.n_spectra} ({said if len(which) <= _SHOWN else f'{len(which)} kinds'})")
        stars = np.unique(record.star_id)
        yield _line("stars", f"{len(stars)}, {next(iter(record.identifiers))} {_few(stars)}")
        for segment in record.segments:
            name = f"{segment.name}: " if segment.name else ""
            yield _line("pixels", f"{name}{_range(segment.wavelength)}")
        yield _line("medium", record.medium or "the file does not say")
        velocity = "" if record.frame == "rest" else f", velocity {_spread(record.velocity)} km/s"
        yield _line("frame", f"{record.frame or 'the file does not say'}{velocity}")
        yield _line(
            "flux", f"in {record.flux_unit or 'a unit that the file does not say'}; noise given as {record.noise_kind}"
        )
        yield from _decoded(record)
        yield _line("columns", _columns(record.columns, record.units))
        yield _line("identifiers", ", ".join(record.identifiers))


def _decoded(record: SurveySpectra) -> Iterator[str]:
    """S/N and masked pixels with the default bits."""
    decoded = decode(record, velocity="none")
    flux = np.concatenate([segment.flux for segment in decoded.segments], axis=1)
    ivar = np.concatenate([segment.ivar for segment in decoded.segments], axis=1)
    yield from _noise(flux, ivar)
    yield _line("masks", decoded.decisions["mask_bits"])


def _noise(flux: np.ndarray, ivar: np.ndarray) -> Iterator[str]:
    yield _line("S/N", f"a pixel, median of each spectrum: {_spread(_snr(flux, ivar))}")
    yield _line("unusable", f"{np.mean(ivar <= 0):.1%} of the pixels")


def _snr(flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Median over the usable pixels of each spectrum, NaN where there is none."""
    used = [(y[w > 0], w[w > 0]) for y, w in zip(flux, ivar, strict=True)]
    return np.array([np.median(y * np.sqrt(w)) if w.size else np.nan for y, w in used])


def _of_spectra(parts: Iterable[Spectra]) -> Iterator[str]:
    """Of all shards, one of which is in memory."""
    n, stars, snrs, unusable, first = 0, set[str](), list[np.ndarray](), 0.0, None
    for part in parts:
        first = first or part
        snrs.append(_snr(part.flux, part.ivar))
        unusable += float((part.ivar <= 0).sum())
        n += part.n_stars
        stars.update(part.ids.tolist())
    if first is None:
        return
    yield _line("spectra", n)
    yield _line("stars", f"{len(stars)}{'' if first.has_own_ids else ', without names'}")
    yield _line("pixels", f"{first.n_pixels}" if first.wavelength is None else _range(first.wavelength))
    yield _line("flux", f"in {first.units.get('flux', 'a unit that is not said')}")
    yield _line("S/N", f"a pixel, median of each spectrum: {_spread(np.concatenate(snrs))}")
    yield _line("unusable", f"{unusable / max(n * first.n_pixels, 1):.1%} of the pixels")
    yield _line("labels", _columns(first.labels, first.units))
    yield _line("identifiers", ", ".join(sorted(first.identifiers)) or "none")
    for name, said in first.attrs.items():
        yield _line(name, said)


def _of_store(path: Path) -> Iterator[str]:
    store = open_store(path)
    yield _line("shards", f"{store.shards} of {store.shard_size} spectra")
    yield from _of_spectra(store)


def _of_unfinished(folder: Path) -> Iterator[str]:
    path = folder.with_name(folder.name.removesuffix(".unfinished"))
    store = UnfinishedStore.look_at(path)
    plan, progress = store.plan, store.progress
    yield _line("files", f"{progress.file} of {len(plan.files)} are done, {len(progress.refused)} of them refused")
    yield _line("spectra", store.n_stars)
    yield _line("pixels", _range(plan.wavelength))
    for name, said in plan.settings.items():
        yield _line(name, said)
    yield "  The command that began it goes on with it."


def _of_model(path: Path) -> Iterator[str]:
    from bayes_cannon.model.any_model import read_any_model  # With it comes JAX.
    from bayes_cannon.model.local import LocalCannonModel

    model = read_any_model(path)
    units = model.label_units
    yield _line("labels", ", ".join(f"{name} [{units[name]}]" if name in units else name for name in model.label_names))
    if isinstance(model, LocalCannonModel):
        yield from _of_local_model(model)
        return
    yield _line("terms", f"{model.vectorizer.n_terms}: {getattr(model.vectorizer, 'human_readable_label_vector', '')}")
    yield _line("stars", f"{len(model.training_set_labels)} in the training set")
    if model.dispersion is not None:
        yield _line("pixels", _range(model.dispersion))
    elif model.theta is not None:
        yield _line("pixels", f"{len(model.theta)}, without wavelengths")
    yield _line("trained", "yes" if model.is_trained else "no")
    if model.is_trained:
        yield _line("scatter", _scatter(model))
    yield _line("errors", "formal" if model.calibration is None else "calibrated")
    for name, said in model.provenance.items():
        yield _line(name, said)


def _of_local_model(model: Any) -> Iterator[str]:
    shapes = zip(model.partitions, model.partition_weights, strict=True)
    yield _line("regions", ", ".join(f"{n} of order {order} (weight {weight:.2f})" for (n, order), weight in shapes))
    yield _line("stars", f"{len(model.training_set_labels)} in the training set")
    if model.dispersion is not None:
        yield _line("pixels", _range(model.dispersion))
    yield _line("scatter", "independent" if model.scatter is None else repr(model.scatter))
    yield _line("errors", "formal" if model.calibration is None else "calibrated")
    for name, said in model.provenance.items():
        yield _line(name, said)


def _scatter(model: Any) -> str:
    """The family, and the median of what pixels scatter by on their own."""
    family = "independent" if model.scatter is None else getattr(model.scatter, "__class__", str).__name__
    return f"{family}; of a pixel on its own {np.sqrt(np.median(model.s2)):.3g} in the median"


def _columns(columns: Mapping[str, Any], units: Mapping[str, str]) -> str:
    named = [f"{name} [{units[name]}]" if units.get(name) else name for name in sorted(columns)]
    more = f", and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    return (", ".join(named[:_SHOWN]) or "none") + more


def _few(stars: np.ndarray) -> str:
    return ", ".join(str(star) for star in stars[:3]) + (", ..." if len(stars) > 3 else "")


def _range(wavelength: np.ndarray) -> str:
    return f"{len(wavelength)} from {np.min(wavelength):.3f} to {np.max(wavelength):.3f} Angstrom"


def _spread(values: np.ndarray) -> str:
    known = np.asarray(values, dtype=float)[np.isfinite(values)]
    if not known.size:
        return "not known"
    return f"{known.min():.4g}" if known.min() == known.max() else f"{known.min():.4g} to {known.max():.4g}"
