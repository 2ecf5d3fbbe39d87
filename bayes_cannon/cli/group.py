"""The group of commands. Only click is imported here: what a command needs is imported when it runs."""

import click

from bayes_cannon.cli.calibrate import calibrate
from bayes_cannon.cli.convert import convert
from bayes_cannon.cli.demo import demo
from bayes_cannon.cli.diagnose import diagnose
from bayes_cannon.cli.export import export
from bayes_cannon.cli.infer import infer
from bayes_cannon.cli.info import info
from bayes_cannon.cli.ingest import ingest
from bayes_cannon.cli.report import report
from bayes_cannon.cli.sample import sample
from bayes_cannon.cli.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bayes-cannon", prog_name="bayes-cannon")
def main() -> None:
    """Stellar labels, with errors, from spectra: The Cannon.

    Exit codes: 0 all went well, 1 the run failed, 2 the command line is wrong.
    """


for _command in (ingest, info, train, infer, sample, diagnose, calibrate, report, convert, export, demo):
    main.add_command(_command)
