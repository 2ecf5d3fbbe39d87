"""Local models of few training stars: labels, pulls and log scores of other stars, partitions chosen or one region.

Random giants of Gaia XP train, 700 others are labelled; medians over several draws of both. The definitions are those
of `validate`.
"""

from collections import Counter
from time import process_time

import numpy as np
from common import arguments, machine, measured, number, publish, table
from local import all_giants
from scatter import NAMES

import bayes_cannon as tc
from bayes_cannon import validate
from bayes_cannon.scatter import Full

HEADER = (
    "training stars", "partitions", "robust scatter", "plain scatter", "robust pulls", "plain pulls", "log score",
    "training, s of processor", "chosen",
)  # fmt: skip
CHOICES = {"auto": "auto", "one region": [(1, 2)]}
N_LABELLED = 700


def few_stars(n_training: int, name: str, n_draws: int) -> dict:
    """A line of the table."""
    stars, chosen = all_giants(), Counter[str]()
    rows, labels = [], stars.labels
    for draw in range(n_draws):
        order = np.random.default_rng(draw).permutation(len(labels))
        kept, out = order[:n_training], order[-N_LABELLED:]
        model = tc.LocalCannonModel(
            labels[kept], stars.flux[kept], stars.ivar[kept], NAMES, partitions=CHOICES[name],
            scatter=Full(heavy_tails=True),
        )  # fmt: skip
        start = process_time()
        model.train()
        seconds = process_time() - start
        fit = model.fit_labels(stars.flux[out], stars.ivar[out])
        pulls = validate.pulls(fit.labels, labels[out], fit.covariance)
        scores = validate.log_scores(fit.labels, labels[out], fit.covariance)
        spread = [f(fit.labels, labels[out]) for f in (validate.robust_scatter, validate.plain_scatter)]
        own = [f(pulls) for f in (validate.robust_scatter, validate.plain_scatter)]
        rows.append([*spread, *own, np.array([scores.mean()]), np.array([seconds])])
        chosen.update(f"{n} of order {order}" for n, order in model.partitions)
    middle = [np.median(column, axis=0) for column in zip(*rows, strict=True)]
    cells = [", ".join(number(float(value)) for value in values) for values in middle]
    return {"cells": [str(n_training), name, *cells, ", ".join(f"{k} ({n})" for k, n in chosen.items())]}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--stars", type=int, nargs="*", default=[110, 300, 700], help="how many train")
    given = parser.parse_args()
    text = measured(machine)["text"]
    for n in given.stars:
        lines = [measured(few_stars, n, name, given.repeats or 5)["cells"] for name in CHOICES]
        publish(f"few_stars {n}", [text, table(HEADER, lines)], write=given.write)


if __name__ == "__main__":
    main()
