"""The lasso path of the diabetes data: the price of complexity, from nothing to everything.

Run it with `make demo`, or `python examples/lasso_path_diabetes.py [--short] [--output FOLDER]`. It
fits the path at 100 strengths, prints a table, names the features in the order in which they enter,
and draws the path. With `--short` it fits 20.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.datasets import load_diabetes

import l1jax

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ["#000000", "#e69f00", "#56b4e9", "#009e73", "#b8a900", "#0072b2", "#d55e00", "#cc79a7"]
DASHES = ["-", "--"]


def main() -> None:
    arguments = parse()
    data = load_diabetes(as_frame=True)
    path = l1jax.path(data.data, data.target, l1jax.L1(), n_lams=20 if arguments.short else 100)

    print_table(path)
    print_entries(path)
    worst = float(np.max(path.relative_gaps))
    print(f"\nEvery fit is certified: the largest relative duality gap is {worst:.1e}.")
    if worst > 1e-8:
        raise SystemExit("A fit missed its certificate of 1e-8.")

    arguments.output.mkdir(parents=True, exist_ok=True)
    picture = arguments.output / "lasso_path_diabetes.png"
    draw(path, picture)
    print(f"The picture of the path: {picture}")


def print_table(path: l1jax.Path) -> None:
    print(f"{'lambda':>10}  {'features in':>11}  {'gap':>8}  {'R2':>6}")
    step = max(1, len(path) // 20)
    for i in sorted({*range(0, len(path), step), len(path) - 1}):
        fit = path[i]
        print(
            f"{fit.lam:10.5f}  {int(fit.n_nonzero):11d}  {fit.relative_gap:8.1e}  "
            f"{fit.deviance_explained:6.3f}"
        )


def print_entries(path: l1jax.Path) -> None:
    names = path.feature_names
    print("\nThe features enter in this order:")
    for i, j in path.entries():
        print(f"  {names[j]:>4}  at lambda <= {path.lams[i]:.5f}")


def draw(path: l1jax.Path, file: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for j, name in enumerate(path.feature_names):
        style = {"color": COLOURS[j % len(COLOURS)], "linestyle": DASHES[j // len(COLOURS)]}
        axes.plot(path.lams, path.coefs[:, j], label=name, linewidth=1.8, **style)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xlabel(r"$\lambda$: the price of a feature, falling to the right")
    axes.set_ylabel("coefficient")
    axes.set_title("As its price falls, features enter the model one by one")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(file, dpi=150)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="fit 20 strengths instead of 100")
    default = Path(__file__).resolve().parent / "output"
    parser.add_argument("--output", type=Path, default=default, help="folder for the picture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
