"""The figure of the README, from what the demo wrote: labels of the stars that it held out against those of APOGEE.

    uv run bayes-cannon demo && uv run python docs/make_figure.py demo

The labels are those of the local models, with the errors that the label table quotes.
"""

import sys
from pathlib import Path

import numpy as np

import bayes_cannon as tc

OUTPUT = Path(__file__).parent / "_static" / "demo.png"


def main(folder: str) -> None:
    """Read model and label table of the demo from ``folder`` and draw `OUTPUT`."""
    model = tc.LocalCannonModel.read(Path(folder) / "gaia-xp-giants-local.model")
    table = tc.io.read_table(Path(folder) / "gaia-xp-giants-local-labels.ecsv")
    names = model.label_names
    labels, reference = (
        np.column_stack([np.asarray(table[n + suffix]) for n in names]) for suffix in ("", "_REFERENCE")
    )
    holder = tc.CannonModel(model.training_set_labels, None, None, tc.vectorizer.PolynomialVectorizer(names, 1))
    figure = tc.plot.one_to_one(
        holder, labels, np.asarray(table["covariance"]), reference=reference, label_units=model.label_units
    )
    figure.savefig(OUTPUT, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
