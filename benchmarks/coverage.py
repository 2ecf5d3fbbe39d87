"""Coverage of label errors with few training stars: with theta integrated out, and with theta taken as known.

Everything is drawn from a model, theta and s of some pixels of case A, trained on its 1,000 stars at Λ = 0. Each of
many sets of 150 stars trains anew, draws from the posterior of theta and labels stars that took no part.
"""

import numpy as np
from common import arguments, machine, measured, number, publish, table
from data import FULL, case_module, spread

import bayes_cannon as tc
from bayes_cannon.core.vectorizer import monomials

LEVELS = ((68.27, 1.0), (95.0, 1.959964))
SNR = 150.0


def covered(n_sets: int, n_training: int, n_stars: int, n_pixels: int) -> dict:
    """Pulls, shape (set, star, label), of both kinds of errors."""
    labels, flux, ivar = case_module().case_a(1000, 0)
    chosen = spread(flux.shape[1], n_pixels)
    vectorizer = FULL["A"].vectorizer
    truth = tc.CannonModel(labels, flux[:, chosen], ivar[:, chosen], vectorizer)
    truth.train()
    sd = np.sqrt(truth.s2 + SNR**-2)
    pulls: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for number_of_set in range(n_sets):
        rng = np.random.default_rng(number_of_set)
        order = rng.permutation(len(labels))
        drawn = []
        for rows in (order[:n_training], order[n_training : n_training + n_stars]):
            model = monomials(truth.scaling.scaled(labels[rows]), vectorizer.exponents) @ truth.theta.T
            drawn.append((labels[rows], model + sd * rng.normal(size=model.shape), np.full(model.shape, SNR**2)))
        model = tc.CannonModel(*drawn[0], vectorizer)
        model.train()
        model.sample(method="psis", key=number_of_set, n_draws=250, keep_draws=False)
        stars, flux, ivar = drawn[1]
        for model.integrate_theta in pulls:
            fit = model.fit_labels(flux, ivar)
            error = np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))
            pulls[model.integrate_theta].append((fit.labels - stars) / error)
    return {"pulls": {kind: np.stack(parts) for kind, parts in pulls.items()}}


def row(work: str, pulls: np.ndarray) -> list[str]:
    cells = []
    for _, half in LEVELS:
        share = 100 * (np.abs(pulls) < half)
        error = share.mean(axis=(1, 2)).std(ddof=1) / np.sqrt(len(pulls))
        cells += [
            f"{share.mean():.1f} ± {error:.1f}",
            ", ".join(f"{value:.1f}" for value in share.mean(axis=(0, 1))),
        ]
    return [work, *cells, ", ".join(number(float(value)) for value in pulls.std(axis=(0, 1)))]


HEADER = ["errors", *(f"within {level:g} %{end}" for level, _ in LEVELS for end in ("", ", by label")), "plain pulls"]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sets", type=int, default=50, help="training sets")
    parser.add_argument("--training", type=int, default=150, help="stars of each")
    parser.add_argument("--stars", type=int, default=200, help="that each labels")
    parser.add_argument("--pixels", type=int, default=300)
    given = parser.parse_args()
    found = measured(covered, given.sets, given.training, given.stars, given.pixels)["pulls"]
    what = (
        f"{given.sets} training sets of {given.training} stars, {given.sets * given.stars:,} stars labelled, "
        f"{given.pixels} pixels, 5 labels, 21 terms, Λ = 0; ± is the error of the mean over the training sets."
    )
    rows = [row("theta integrated out", found[True]), row("theta taken as known", found[False])]
    publish("coverage", [measured(machine)["text"], what, table(HEADER, rows)], write=given.write)


if __name__ == "__main__":
    main()
