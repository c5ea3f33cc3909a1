"""Random small networks with random dead units, and a check that does not compile them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from l1jax.prune import _compact as compacting
from l1jax.prune._bind import rebind
from l1jax.prune._trace import split, trace

ACTIVATIONS = [jax.nn.relu, jnp.tanh, jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.sigmoid]
ACTIVATIONS += [jax.nn.leaky_relu, jnp.square, jax.nn.elu]


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))
ACTIVATIONS.append(straight_through)


class Builder:
    """A network that grows layer by layer; each layer is a function of (params, x)."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.params = {}
        self.count = 0

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def width(self):
        return int(self.pick(2, 4, 6))

    def new(self, *shape, axes=(), scale=1.0):
        """A parameter; some indices of some of its axes are zero."""
        value = scale * self.rng.normal(size=shape)
        for axis in axes:
            if self.rng.random() < 0.5:
                dead = self.rng.random(shape[axis]) < 0.5
                value[(slice(None),) * axis + (dead,)] = 0
        name = f"p{self.count:03d}"
        self.count += 1
        self.params[name] = value
        return name

    def zeroed(self, *shape):
        return self.new(*shape, axes=range(len(shape)))

    def activation(self):
        return self.pick(*ACTIVATIONS)


def affine(b, n):
    """A scale and a shift, in one of the orders in which frameworks write batch norm."""
    g, s, m, v = b.zeroed(n), b.zeroed(n), b.new(n), b.new(n)
    kind = b.rng.integers(3)

    def run(p, x):
        var = p[v] ** 2 + 0.1
        if kind == 0:
            return (x - p[m]) * jax.lax.rsqrt(var + 1e-5) * p[g] + p[s]
        if kind == 1:
            return (x - p[m]) * (jax.lax.rsqrt(var + 1e-5) * p[g]) + p[s]
        return (x - p[m]) / jnp.sqrt(var + 1e-5) * p[g] + p[s]

    return run


def dense(b, n, out, bias=None):
    w = b.zeroed(n, out)
    c = b.new(out) if (b.rng.random() < 0.8 if bias is None else bias) else None
    transposed = b.rng.random() < 0.2
    if transposed:
        b.params[w] = np.ascontiguousarray(b.params[w].T)

    def run(p, x):
        y = x @ (p[w].T if transposed else p[w])
        return y if c is None else y + p[c]

    return run


def layer_norm(b, n):
    g, s = b.zeroed(n), b.zeroed(n)
    kind = b.rng.integers(3)

    def run(p, x):
        if kind == 0:
            x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        elif kind == 1:
            x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        else:
            mean, square = x.mean(-1, keepdims=True), (x * x).mean(-1, keepdims=True)
            x = (x - mean) * jax.lax.rsqrt(square - mean**2 + 1e-5)
        return x * p[g] + p[s]

    return run


def compose(*functions):
    def run(p, x):
        for function in functions:
            x = function(p, x)
        return x

    return run


def plain(function):
    return lambda p, x: function(x)


def residual(b, n, branch):
    return lambda p, x: x + branch(p, x)


def mlp_block(b, n):
    h = b.width()
    act = b.activation()
    return compose(dense(b, n, h), plain(act), dense(b, h, n))


def glu(b, n, out):
    one, two, act = dense(b, n, out), dense(b, n, out), b.activation()
    return lambda p, x: one(p, x) * act(two(p, x))


def split_glu(b, n, out):
    both, act = dense(b, n, 2 * out), b.activation()

    def run(p, x):
        left, right = jnp.split(both(p, x), 2, axis=-1)
        return left * act(right)

    return run


def concatenated(b, n, out):
    one, two, act = dense(b, n, out), dense(b, n, out), b.activation()
    return lambda p, x: jnp.concatenate([one(p, x), act(two(p, x)), x[..., :1]], -1)


def stacked(b, n, out):
    """Two layers along a new axis, an axis that is taken apart, and copies; and the features after it."""
    one, two, both, act = dense(b, n, out), dense(b, n, out), dense(b, n, 2 * out), b.activation()

    def sum_of_two(p, x):
        return jnp.stack([one(p, x), act(two(p, x))], -2).sum(-2)

    def product_of_two(p, x):
        y = both(p, x)
        left, right = jnp.unstack(y.reshape(*y.shape[:-1], 2, out), axis=-2)
        return left * act(right)

    def interleaved(p, x):
        y = jnp.stack([one(p, x), act(two(p, x))], -1)
        return y.reshape(*x.shape[:-1], 2 * out)

    def twice(p, x):
        return jnp.tile(act(one(p, x)), 2)

    return b.pick(
        (sum_of_two, out), (product_of_two, out), (interleaved, 2 * out), (twice, 2 * out)
    )


def shuffle(b, n):
    groups = 2
    return lambda p, x: jnp.swapaxes(x.reshape(*x.shape[:-1], groups, -1), -1, -2).reshape(x.shape)


def odd(b, n):
    """What runs over the last axis, and lets no unit go."""
    return plain(
        b.pick(
            jax.nn.softmax,
            lambda x: jnp.sort(x, -1),
            lambda x: jnp.cumsum(x, -1),
            lambda x: x[..., ::-1],
            lambda x: x[..., np.arange(n)[::-1]],
            lambda x: x + x.max(-1, keepdims=True),
            lambda x: x * x.sum(-1, keepdims=True),
            lambda x: x + jnp.arange(n),
            lambda x: jnp.where(jnp.arange(n) % 2 == 0, x, 0.5),
            lambda x: jnp.where(x > 0, x, x.mean(-1, keepdims=True)),
            lambda x: jnp.roll(x, 1, -1),
            lambda x: x @ jnp.ones((n, n)),
            lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 1)])[..., 1:-1],
            lambda x: x.at[..., 0].set(1.0),
            lambda x: jnp.clip(x, -1, 1),
            lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True) + x,
        )
    )


def looped(b, n):
    """A scan over stacked layers, over steps of a recurrent cell, a loop, a branch, a checkpoint."""
    kind = b.rng.integers(6)
    h = b.width()
    act = b.activation()
    if kind == 0:
        w, c, v = b.zeroed(3, n, h), b.zeroed(3, h), b.zeroed(3, h, n)

        def layer(x, stacked):
            w, c, v = stacked
            return x + act(x @ w + c) @ v, None

        return lambda p, x: jax.lax.scan(layer, x, (p[w], p[c], p[v]))[0]
    if kind == 1:
        w, u, c, v = b.zeroed(n, h), b.zeroed(h, h), b.zeroed(h), b.zeroed(h, n)

        def cell(p, x):
            def step(s, y):
                s = jnp.tanh(y @ p[w] + s @ p[u] + p[c])
                return s, s

            start = jnp.zeros((*x.shape[:-1], h))
            s, all_steps = jax.lax.scan(step, start, jnp.stack([x, 2 * x, -x]))
            return (s + all_steps[0]) @ p[v]

        return cell
    block = mlp_block(b, n)
    if kind == 2:
        return lambda p, x: jax.lax.fori_loop(0, 2, lambda _, y: 0.5 * block(p, y), x)
    if kind == 3:
        other = mlp_block(b, n)
        return lambda p, x: jax.lax.cond(
            x.sum() > 0, lambda x: block(p, x), lambda x: other(p, x), x
        )
    if kind == 4:
        return lambda p, x: jax.checkpoint(lambda p, x: block(p, x))(p, x)
    return lambda p, x: jax.jit(lambda p, x: block(p, x))(p, x)


def vector_layers(b, n):
    """A random layer for arrays whose last axis is the features; and the features after it."""
    out = b.width()
    kinds = [
        lambda: (dense(b, n, out), out),
        lambda: (dense(b, n, out), out),
        lambda: (affine(b, n), n),
        lambda: (affine(b, n), n),
        lambda: (plain(b.activation()), n),
        lambda: (plain(b.activation()), n),
        lambda: (layer_norm(b, n), n),
        lambda: (residual(b, n, mlp_block(b, n)), n),
        lambda: (residual(b, n, compose(layer_norm(b, n), mlp_block(b, n), affine(b, n))), n),
        lambda: (glu(b, n, out), out),
        lambda: (split_glu(b, n, out), out),
        lambda: (concatenated(b, n, out), 2 * out + 1),
        lambda: (odd(b, n), n),
        lambda: (looped(b, n), n),
        lambda: stacked(b, n, out),
    ]
    if n % 2 == 0:
        kinds.append(lambda: (shuffle(b, n), n))
    return b.pick(*kinds)()


def convolution(b, n, out, groups=1):
    size, stride = b.pick(1, 3), b.pick(1, 1, 2)
    padding = b.pick("SAME", "SAME", "VALID")
    k = b.new(size, size, n // groups, out, axes=(2, 3))
    c = b.new(out) if b.rng.random() < 0.5 else None

    def run(p, x):
        x = jax.lax.conv_general_dilated(
            x,
            p[k],
            (stride, stride),
            padding if x.shape[1] > size else "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return x if c is None else x + p[c]

    return run


def group_norm(b, n):
    g, s = b.zeroed(n), b.zeroed(n)

    def run(p, x):
        y = x.reshape(*x.shape[:-1], 2, n // 2)
        mean = y.mean((1, 2, 4), keepdims=True)
        y = (y - mean) / jnp.sqrt(((y - mean) ** 2).mean((1, 2, 4), keepdims=True) + 1e-5)
        return y.reshape(x.shape) * p[g] + p[s]

    return run


def gate(b, n):
    """Squeeze and excitation."""
    inner = compose(dense(b, n, 4), plain(jax.nn.relu), dense(b, 4, n))
    return lambda p, x: x * jax.nn.sigmoid(inner(p, x.mean((1, 2))))[:, None, None]


def pool(b, n):
    kind = b.pick("max", "mean", "same")

    def run(p, x):
        if x.shape[1] < 2:
            return x
        window = (1, 2, 2, 1)
        if kind == "max":
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        padding = "VALID" if kind == "mean" else "SAME"
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1, 1, 1, 1), padding) / 4

    return run


def image_layers(b, n):
    """A random layer for images with channels last; and the channels after it."""
    out = b.width()
    kinds = [
        lambda: (compose(convolution(b, n, out), affine(b, out), plain(b.activation())), out),
        lambda: (compose(convolution(b, n, out), affine(b, out), plain(b.activation())), out),
        lambda: (compose(convolution(b, n, out), plain(b.activation())), out),
        lambda: (convolution(b, n, out), out),
        lambda: (convolution(b, n, n, groups=n), n),
        lambda: (convolution(b, n, 2 * n, groups=n), 2 * n),
        lambda: (affine(b, n), n),
        lambda: (pool(b, n), n),
        lambda: (gate(b, n), n),
        lambda: (concatenated(b, n, out), 2 * out + 1),
        lambda: vector_layers(b, n),
        lambda: (residual(b, n, compose(affine(b, n), mlp_block(b, n))), n),
    ]
    if n % 2 == 0:
        kinds.append(lambda: (convolution(b, n, 2 * out, groups=2), 2 * out))
        kinds.append(lambda: (group_norm(b, n), n))
        kinds.append(lambda: (shuffle(b, n), n))
    return b.pick(*kinds)()


def attention(b, n):
    heads, size = 2, b.pick(2, 4)
    parts = [dense(b, n, heads * size) for _ in range(3)]
    back = dense(b, heads * size, n)
    merged = b.rng.random() < 0.5
    if not merged:
        names = [b.new(n, heads, size, axes=(1, 2)) for _ in range(3)]
        last = b.new(heads, size, n, axes=(0, 1))

    def run(p, x):
        if merged:
            q, k, v = (part(p, x).reshape(*x.shape[:-1], heads, size) for part in parts)
        else:
            q, k, v = (jnp.einsum("btd,dhs->bths", x, p[name]) for name in names)
        weights = jax.nn.softmax(jnp.einsum("bths,buhs->bhtu", q, k), -1)
        y = jnp.einsum("bhtu,buhs->bths", weights, v)
        if not merged:
            return x + jnp.einsum("bths,hsd->btd", y, p[last])
        return x + back(p, y.reshape(*x.shape[:-1], heads * size))

    return run


def random_network(seed):
    """A function of (params, x), its parameters and an example."""
    b = Builder(seed)
    kind = b.pick("vector", "image", "sequence")
    n, layers = 3, []
    if kind == "sequence":
        layers, n = [dense(b, 3, 4)], 4
    for _ in range(b.rng.integers(2, 6)):
        if kind == "sequence" and b.rng.random() < 0.5:
            layers.append(attention(b, n))
        else:
            layer, n = (image_layers if kind == "image" else vector_layers)(b, n)
            layers.append(layer)
    if kind == "image":
        layers.append(plain(b.pick(lambda x: x.mean((1, 2)), lambda x: x.reshape(len(x), -1))))
    shape = {"vector": (4, 3), "image": (2, 5, 5, 3), "sequence": (2, 3, 3)}[kind]
    example = b.rng.normal(size=shape)
    body = compose(*layers)
    size = jax.eval_shape(body, b.params, example).shape[-1]
    apply = compose(body, dense(b, size, 2))
    return apply, {name: jnp.asarray(value) for name, value in b.params.items()}, example


def compacted(apply, params, example, **options):
    """The smaller function, not compiled, its parameters, and the plan."""
    model = compacting._Model(apply, split((params,)), split((example,)), False)
    traced = trace(apply, model.params, model.inputs)
    settings = {"silent": None, "cut_inputs": False, "add_constants": False, "multiple_of": 1}
    removal = compacting._removal(model, traced, *(settings | options).values())
    plan = compacting._plan(model, traced, removal)
    small = compacting._small_arrays(model, removal, plan)
    compacting._forget(traced)

    def run(params, x):
        again = trace(apply, model.params, split((x,)))
        out = rebind(again, plan)([*jax.tree.leaves(params), x])
        return again.out_tree.unflatten(out)

    return run, model.params.join(small)[0], plan
