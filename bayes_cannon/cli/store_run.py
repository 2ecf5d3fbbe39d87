"""What the command infer does with a store of spectra whose labels go into a store, and what export does."""

from hashlib import file_digest
from pathlib import Path

import click

from bayes_cannon.cli.worker_options import executor_of
from bayes_cannon.io.label_export import export_labels
from bayes_cannon.io.shipped import find_model
from bayes_cannon.model import CannonModel
from bayes_cannon.model.any_model import kind_of_errors, read_any_model
from bayes_cannon.model.store_labelling import label_store


def run_store_inference(
    model: Path, store: str, output: Path, *, workers: int | None, scheduler: str | None, posterior: Path | None,
    error_budget: bool, prior: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Label the spectra of a store into a store of labels, and say how it went."""
    model = find_model(model)
    trained = read_any_model(model)
    if posterior is not None:
        if not isinstance(trained, CannonModel):
            raise ValueError(f"--posterior does not go with local models, which {model} holds")
        trained.integrate_theta = True
        trained.use_posterior(posterior)
    with model.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    with executor_of(workers, scheduler) as executor:
        done = label_store(
            trained, store, output, executor=executor, error_budget=error_budget, prior=prior,
            progress=None if quiet else True, model_file=model, model_file_hash=digest,
        )  # fmt: skip
    if not quiet:
        click.echo(
            f"{done.n_stars} stars, {done.n_new} of them labelled now, in {done.seconds:.3g} s; peak memory of a "
            f"process {done.memory / 1e9:.3g} GB"
        )
        click.echo(f"errors of labels: {kind_of_errors(trained, prior)}")
    click.echo(f"wrote {output}")


def run_export(store: Path, output: Path, *, partial: bool, overwrite: bool, quiet: bool) -> None:
    """Write the catalogue."""
    rows = export_labels(store, output, partial=partial, overwrite=overwrite, progress=None if quiet else True)
    if not quiet:
        click.echo(f"{rows} stars")
    click.echo(f"wrote {output}")
