"""Fits of data on 8 devices, for `test_sharding.py`: `sharded_fits.py file.npz` writes what they give.

One process for all of them: each product is compiled once. Every name in the file is that of a claim.
"""

import functools
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import l1jax
from l1jax.linear.data import _sharded

SPECS = {
    "rows": P(("a", "b"), None),
    "columns": P(None, ("a", "b")),
    "both": P("a", "b"),
}
LAMS = [0.3, 0.1, 0.03]
LAM_OF_LOSSES = {"rows": 0.02, "both": 0.02, "columns": 0.1}


def tall_data() -> dict[str, np.ndarray]:
    """4096 rows of 16 columns far from zero, and targets of every kind."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4096, 16)) + np.linspace(-30, 30, 16)
    eta = (X - X.mean(axis=0))[:, :4] @ [1.0, -1.0, 0.5, 0.2]
    noise = rng.logistic(size=len(X))
    scores = np.stack([eta, -eta, np.zeros_like(eta)], axis=1)
    times = rng.permutation(len(X)) * np.exp(-0.3 * eta)
    return {
        "X": X,
        "y": eta + noise,
        "labels": (eta + noise > 0).astype(float),
        "classes": np.argmax(scores + rng.gumbel(size=scores.shape), axis=1),
        "survival": np.column_stack([1 + times, rng.random(len(X)) < 0.6]).astype(float),
    }


def wide_data() -> dict[str, np.ndarray]:
    """64 rows of 2048 columns."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(64, 2048))
    y = X[:, 0] - X[:, 7] + 0.5 * rng.normal(size=64)
    times = rng.permutation(64) * np.exp(-0.5 * y)
    return {
        "X": X,
        "y": y,
        "labels": (y > 0).astype(float),
        "classes": np.digitize(y, [-0.5, 0.5]),
        "survival": np.column_stack([1 + times, rng.random(64) < 0.6]).astype(float),
    }


@functools.cache
def mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto, AxisType.Auto))


def put(array: Any, spec: Any) -> jax.Array:
    return jax.device_put(array, NamedSharding(mesh(), spec))


class HostArrays:
    """The sizes of the arrays that come to the host while it is entered."""

    def __enter__(self) -> "HostArrays":
        kind, self.sizes = type(jnp.zeros(())), [0]
        self.kind, self.array, self.value = kind, kind.__array__, kind._value
        array, value, sizes = kind.__array__, kind._value, self.sizes

        def as_numpy(x: Any, *args: Any, **kwargs: Any) -> Any:
            sizes.append(x.size)
            return array(x, *args, **kwargs)

        def get(x: Any) -> Any:
            sizes.append(x.size)
            return value.fget(x)

        kind.__array__, kind._value = as_numpy, property(get)
        return self

    def __exit__(self, *error: object) -> None:
        self.kind.__array__, self.kind._value = self.array, self.value


def collectives(product: Any, *args: Any) -> dict[str, int]:
    """The most entries that a product moves between devices at once, and that a device takes in between."""
    compiled = product.lower(*args).compile().compiled
    pattern = r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
    sizes = [0]
    for line in re.findall(pattern, compiled.as_text()):
        for shape in re.findall(r"\[([\d,]*)\]", line):
            sizes.append(int(np.prod([int(size) for size in shape.split(",") if size])))
    return {"moved": max(sizes), "between": compiled.memory_analysis().temp_size_in_bytes // 8}


def fits(found: dict[str, Any]) -> None:
    tall, wide = tall_data(), wide_data()
    lasso = l1jax.L1()
    for name in ("rows", "both"):
        X = put(tall["X"], SPECS[name])
        y = put(tall["y"], P(SPECS[name][0]))
        with HostArrays() as host:
            path = l1jax.path(X, y, lasso, lams=LAMS)
            found[f"{name} lasso"] = np.array(path.coefs)
            found[f"{name} gap"] = np.array(path.fits.relative_gap)
            found[f"{name} lambda_max"] = l1jax.lambda_max(X, y, lasso)
            found[f"{name} predicted"] = path[1].predict(X)
            logistic = {"loss": l1jax.Logistic()}
            found[f"{name} logistic"] = l1jax.fit(
                X, tall["labels"], l1jax.L1(0.02), **logistic
            ).coef
            cv = l1jax.cross_validate(X, y, lasso, lams=LAMS, folds=np.arange(4096) % 4)
            found[f"{name} cv"] = cv.fold_scores
            by_lam = jax.jacobian(lambda lam, X=X, y=y: l1jax.fit(X, y, l1jax.L1(lam)).coef)
            found[f"{name} by lam"] = by_lam(0.1)
            found[f"{name} host"] = max(host.sizes)
    X = put(tall["X"], SPECS["rows"])
    with HostArrays() as host:
        other_penalties_and_losses(found, "rows", X, tall)
        found["rows single"] = l1jax.path(X.astype(np.float32), tall["y"], lasso, lams=LAMS).coefs
        logistic = {"loss": l1jax.Logistic()}
        by_lam = jax.jacobian(
            lambda lam: l1jax.fit(X, tall["labels"], l1jax.L1(lam), **logistic).coef
        )
        found["rows logistic by lam"] = by_lam(0.02)
        found["rows all host"] = max(host.sizes)
    with HostArrays() as host:
        other_penalties_and_losses(found, "both", put(tall["X"], SPECS["both"]), tall)
        found["both all host"] = max(host.sizes)
    X = put(wide["X"], SPECS["columns"])
    with HostArrays() as host:
        path = l1jax.path(X, wide["y"], lasso, lams=LAMS)
        found["columns lasso"], found["columns gap"] = path.coefs, path.fits.relative_gap
        found["columns predicted"] = path[1].predict(X)
        found["columns logistic"] = l1jax.fit(X, wide["labels"], l1jax.L1(0.1), **logistic).coef
        other_penalties_and_losses(found, "columns", X, wide)
        found["columns host"] = max(host.sizes)


def other_penalties_and_losses(found: dict[str, Any], name: str, X: Any, data: Any) -> None:
    """An elastic net, groups, several classes and survival times."""
    lam = LAM_OF_LOSSES[name]
    en, groups = l1jax.ElasticNet(l1_ratio=0.5), l1jax.GroupL1(groups=np.arange(X.shape[1]) // 4)
    path = l1jax.path(X, data["y"], en, lams=LAMS, standardize=True)
    found[f"{name} elastic net"] = path.coefs
    found[f"{name} groups"] = l1jax.path(X, data["y"], groups, lams=LAMS).coefs
    survival = l1jax.fit(X, data["survival"], l1jax.L1(lam / 2), loss=l1jax.Cox())
    found[f"{name} cox"] = survival.coef
    several = l1jax.fit(X, data["classes"], l1jax.L1(lam), loss=l1jax.Multinomial(3))
    found[f"{name} multinomial"] = several.coef
    found[f"{name} multinomial b"] = several.intercept


def programs(found: dict[str, Any]) -> None:
    """What each product moves, for a block of few rows."""
    tall, wide = tall_data()["X"], wide_data()["X"]
    for name, X in (("rows", tall), ("both", tall), ("columns", wide)):
        x = _sharded.ShardedMatrix.of(put(X, SPECS[name]))
        n, p = X.shape
        s, centre, one = np.full(n, 1 / n), np.zeros(p), np.ones(p)
        x = x.transform(centre, one)
        products = {
            "dot": (_sharded._dot, x, centre),
            "rdot": (_sharded._rdot, x, s),
            "means": (_sharded._means, x, s),
            "squares": (_sharded._squares, x, s, centre),
            "peaks": (_sharded._peaks, x, s),
        }
        if name != "columns":
            products["gram"] = (_sharded._gram, x, s, s[:, None])
        for kind, call in products.items():
            found[f"{name} {kind} program"] = list(collectives(*call).values())


def errors(found: dict[str, Any]) -> None:
    bad = tall_data()["X"]
    bad[100, 3] = np.nan
    try:
        l1jax.fit(put(bad, SPECS["both"]), np.zeros(len(bad)), l1jax.L1(0.1))
    except ValueError as error:
        found["not finite"] = str(error)


if __name__ == "__main__":
    _sharded._BLOCK = 1024  # entries: small beside these data, as it is beside those that need it
    out: dict[str, Any] = {}
    for claims in (fits, programs, errors):
        claims(out)
    np.savez(sys.argv[1], **{name: np.asarray(value) for name, value in out.items()})
