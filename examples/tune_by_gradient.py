"""Choose λ by gradient, choose a thousand weights by gradient, and ask which data a choice rests on.

python examples/tune_by_gradient.py            # writes examples/output/tune_by_gradient.png
python examples/tune_by_gradient.py --short    # the same on less data
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes

import l1jax

jax.config.update("jax_enable_x64", True)
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#7f7f7f"


def one_strength(axes, n_grid):
    """The cross-validation error on a fine grid, and the few points that the gradient needs."""
    X, y = load_diabetes(return_X_y=True)
    folds = np.arange(len(y)) % 5
    tuned = l1jax.tune(X, y, l1jax.L1(), criterion=l1jax.CrossValidation(folds=folds))
    biggest = float(l1jax.lambda_max(X, y, l1jax.L1()))
    lams = biggest * np.logspace(0, -3, n_grid)
    error = np.zeros(n_grid)
    for fold in range(5):
        inside = folds == fold
        path = l1jax.path(X[~inside], y[~inside], l1jax.L1(), lams=lams)
        missed = y[inside] - path.predict(X[inside])
        error += 0.5 * np.mean(missed**2, axis=1) / 5
    print(f"grid of {n_grid}: {error.min():.2f}; by gradient: {tuned.criterion:.2f}")
    print(tuned)
    tried = np.array([float(trial.values["lam"]) for trial in tuned.history])
    found = np.array([trial.criterion for trial in tuned.history])
    axes.plot(lams, error, color=GREY, label=f"grid of {n_grid}")
    axes.plot(tried[:10], found[:10], "o", color=BLUE, label="first path, with its gradients")
    axes.plot(tried[10:], found[10:], "D", color=ORANGE, label="then by gradient")
    axes.set(xscale="log", xlabel="λ", ylabel="cross-validated error", title="One strength")
    axes.set_ylim(error.min() - 10, error.min() + 200)
    axes.invert_xaxis()
    axes.legend(frameon=False)


def many_weights(axes, p, max_fits):
    """One weight per feature, chosen on held-out rows, against one strength for all."""
    rng = np.random.default_rng(0)
    n, beta = 100, np.zeros(p)
    beta[rng.choice(p, 10, replace=False)] = rng.choice([-1, 1], 10)
    X, X_held, X_test = (rng.normal(size=(rows, p)) for rows in (n, n, 2000))
    y, y_held = (data @ beta + rng.normal(size=n) for data in (X, X_held))
    criterion = l1jax.HeldOut(X_held, y_held)
    begin = time.perf_counter()
    one = l1jax.tune(X, y, l1jax.L1(), criterion=criterion)
    many = l1jax.tune(X, y, l1jax.L1(), by="weights", criterion=criterion, max_fits=max_fits)
    seconds = time.perf_counter() - begin

    def error(tuned):
        return np.mean((X_test @ beta - tuned.fit.predict(X_test)) ** 2)

    print(f"{p} weights in {seconds:.0f} s: held out {one.criterion:.3f} -> {many.criterion:.3f}")
    print(f"test error {error(one):.3f} with one strength, {error(many):.3f} with {p} weights")
    for tuned, color, label in ((one, BLUE, "one strength"), (many, ORANGE, f"{p} weights")):
        size = np.sort(np.abs(tuned.fit.coef))[::-1][:60]
        axes.plot(np.maximum(size, 1e-3), color=color, label=f"{label}: error {error(tuned):.2f}")
    axes.axvline(9.5, color=GREY, lw=1, ls=":")
    axes.set(
        yscale="log", xlabel="feature, by size", ylabel="|coefficient|; zeros are drawn at 10⁻³"
    )
    axes.set_ylim(5e-4, 4)
    axes.set_title("One weight each")
    axes.text(10.5, 2, "10 features are real", color=GREY, va="center")
    axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.9))


def which_rows(axes):
    """How the validation loss moves with each training target: a pipeline, differentiated."""
    X, y = load_diabetes(return_X_y=True)
    train = np.arange(len(y)) % 2 == 0
    X_train, X_held = jnp.asarray(X[train]), jnp.asarray(X[~train])

    def loss(y_train):
        fit = l1jax.fit(X_train, y_train, l1jax.L1(2.0), standardize=True)
        return jnp.mean((y[~train] - fit.predict(X_held)) ** 2)

    influence = np.asarray(jax.grad(loss)(jnp.asarray(y[train])))
    axes.scatter(y[train], influence, s=12, color=BLUE)
    axes.axhline(0, color=GREY, lw=1)
    axes.set(
        xlabel="target of a training row",
        ylabel="∂(validation loss)/∂(target)",
        title="What a choice rests on",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="less data")
    short = parser.parse_args().short
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    one_strength(axes[0], n_grid=20 if short else 100)
    many_weights(axes[1], p=40 if short else 1000, max_fits=2 if short else 60)
    which_rows(axes[2])
    output = Path(__file__).parent / "output"
    output.mkdir(exist_ok=True)
    figure.savefig(output / "tune_by_gradient.png", dpi=120)
    print(f"wrote {output / 'tune_by_gradient.png'}")


if __name__ == "__main__":
    main()
