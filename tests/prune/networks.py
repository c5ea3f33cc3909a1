"""Small networks with units that are silent, written by hand in plain JAX."""

import jax
import jax.numpy as jnp
import numpy as np

DEAD = np.array([1, 3, 4])
KEPT = np.array([0, 2, 5])


def normal(seed, **shapes):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def as_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


def norm(params, x, name=""):
    """Batch norm at inference."""
    scale = params["scale" + name] * jax.lax.rsqrt(params["var" + name] ** 2 + 1e-5)
    return (x - params["mean" + name]) * scale + params["shift" + name]


def mlp(params, x):
    h = jax.nn.relu(norm(params, x @ params["w"]))
    return h @ params["v"] + params["b"]


def mlp_params(seed=0):
    """A hidden layer of 6 units, of which `DEAD` have scale 0 and a shift that is not."""
    shapes = {"w": (3, 6), "scale": 6, "shift": 6, "mean": 6, "var": 6, "v": (6, 2), "b": 2}
    params = normal(seed, **shapes)
    params["scale"][DEAD] = 0
    return as_jax(params)


def convolve(x, kernel, padding="SAME", stride=1, **settings):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=numbers, **settings
    )


def cnn(padding):
    def apply(params, x):
        x = jax.nn.relu(norm(params, convolve(x, params["k"])))
        x = convolve(x, params["k2"], padding) + params["b2"]
        return x.mean((1, 2)) @ params["v"] + params["b"]

    return apply


def cnn_params(shift):
    shapes = {
        "k": (3, 3, 2, 6),
        "scale": 6,
        "shift": 6,
        "mean": 6,
        "var": 6,
        "k2": (3, 3, 6, 4),
        "b2": 4,
        "v": (4, 2),
        "b": 2,
    }
    params = normal(1, **shapes)
    params["scale"][DEAD] = 0
    params["shift"][DEAD] = shift
    return as_jax(params)


def images(n=3):
    return jnp.asarray(np.random.default_rng(7).normal(size=(n, 5, 5, 2)))


def rows(n=4, p=3):
    return jnp.asarray(np.random.default_rng(n).normal(size=(n, p)))
