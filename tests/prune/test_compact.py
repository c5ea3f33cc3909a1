"""What `compact` removes, folds and returns, against slices and sums written out in NumPy."""

import io
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l1jax
from l1jax import prune
from l1jax.prune._memory import peak_bytes
from l1jax.prune._program import read_program
from tests.prune import networks as nets
from tests.prune.networks import DEAD, KEPT

# The second is what the test suite raises first, where it checks annotations.
NO_FUNCTION = r"apply must be a function of \(params, \*inputs\), got 3|parameter 'apply'"


@pytest.fixture(scope="module")
def small():
    return prune.compact(nets.mlp, nets.mlp_params(), nets.rows())


@pytest.mark.fast
def test_silent_units_go_and_their_constant_goes_into_the_next_bias(small):
    params = {name: np.asarray(leaf) for name, leaf in nets.mlp_params().items()}
    constant = np.maximum(params["shift"][DEAD], 0) @ params["v"][DEAD]
    assert (constant != 0).all()
    expected = {name: params[name][KEPT] for name in ("scale", "shift", "mean", "var", "v")}
    expected |= {"w": params["w"][:, KEPT], "b": params["b"] + constant}
    assert set(small.params) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(small.params[name], array, rtol=1e-14, err_msg=name)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_outputs_are_the_same_at_any_batch_size(small, n):
    x = nets.rows(n)
    np.testing.assert_allclose(
        small.apply(small.params, x), nets.mlp(nets.mlp_params(), x), rtol=1e-11
    )


def test_gradients_of_what_is_kept_are_the_same(small):
    def loss(apply):
        return lambda params, x: (apply(params, x) ** 2).sum()

    x = nets.rows()
    full = jax.grad(loss(nets.mlp), (0, 1))(nets.mlp_params(), x)
    less = jax.jit(jax.grad(loss(small.apply), (0, 1)))(small.params, x)
    cut = small.plan.apply(full[0])
    assert cut["v"].shape == (3, 2)
    for ours, theirs in zip(jax.tree.leaves((cut, full[1])), jax.tree.leaves(less), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-10, atol=1e-12)


def test_runs_under_vmap_over_rows_and_over_parameters(small):
    x = nets.rows()
    by_row = jax.vmap(small.apply, (None, 0))(small.params, x[:, None])[:, 0]
    np.testing.assert_allclose(by_row, nets.mlp(nets.mlp_params(), x), rtol=1e-11)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), small.params)
    assert jax.vmap(small.apply, (0, None))(two, x).shape == (2, 4, 2)


def test_is_exported(small):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), small.params)
    batch = jax.ShapeDtypeStruct((4, 3), jnp.float64)
    exported = jax.export.export(jax.jit(small.apply))(shapes, batch)
    x = nets.rows()
    expected = nets.mlp(nets.mlp_params(), x)
    np.testing.assert_allclose(exported.call(small.params, x), expected, rtol=1e-11)


def test_does_not_trace_again_for_other_values(small):
    traces = []

    def apply(params, x):
        traces.append(1)
        return nets.mlp(params, x)

    again = small.plan.bind(apply)
    for factor in (1, 2, 3):
        again(jax.tree.map(lambda leaf, f=factor: f * leaf, small.params), nets.rows())
    assert len(traces) == 1


@pytest.mark.slow
def test_training_goes_on_as_in_the_full_network(small):
    """Adam's next step from the same state, on what is kept."""
    tx = optax.adam(0.1)
    params, x = nets.mlp_params(), nets.rows()
    gradient = jax.grad(lambda p: (nets.mlp(p, x) ** 2).mean())(params)
    state = tx.update(gradient, tx.init(params), params)[1]
    expected, _ = tx.update(gradient, state, params)
    less = jax.grad(lambda p: (small.apply(p, x) ** 2).mean())(small.params)
    updates, new = tx.update(less, small.plan.apply(state), small.params)
    for ours, theirs in zip(
        jax.tree.leaves(updates), jax.tree.leaves(small.plan.apply(expected)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    assert new[0].count == 2


@pytest.mark.parametrize(
    "tx", [optax.adafactor(0.1, min_dim_size_to_factor=2), optax.lion(0.1), optax.sm3(0.1)]
)
def test_cuts_the_state_of_any_optimiser(small, tx):
    params = nets.mlp_params()
    cut, fresh = small.plan.apply(tx.init(params)), tx.init(small.params)
    assert jax.tree.map(jnp.shape, cut) == jax.tree.map(jnp.shape, fresh)


def test_refuses_the_state_of_an_optimiser_that_is_not_of_the_shapes_of_parameters(small):
    with pytest.raises(ValueError, match="L-BFGS does, its init makes anew for the smaller ones"):
        small.plan.apply(optax.lbfgs().init(nets.mlp_params()))


def test_undo_gives_the_full_network_back_with_zeros(small):
    full = small.plan.undo(small.params)
    assert jax.tree.map(jnp.shape, full) == jax.tree.map(jnp.shape, nets.mlp_params())
    assert not full["w"][:, DEAD].any() and not full["v"][DEAD].any()
    x = nets.rows()
    np.testing.assert_allclose(nets.mlp(full, x), small.apply(small.params, x), rtol=1e-11)
    again = small.plan.apply(full)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again, small.params))


def test_a_saved_plan_makes_the_same_function(small):
    file = io.BytesIO()
    small.plan.save(file)
    file.seek(0)
    plan = l1jax.load(file)
    assert isinstance(plan, prune.PruningPlan)
    x = nets.rows(2)
    again = plan.bind(nets.mlp)(small.params, x)
    assert (again == small.apply(small.params, x)).all()
    assert plan.apply(nets.mlp_params())["w"].shape == (3, 3)


def test_a_plan_refuses_other_trees_functions_and_shapes(small):
    params, x = small.params, nets.rows()
    with pytest.raises(
        ValueError, match=r"params has shape \(3, 6\) at w, where the plan leaves \(3, 3\)"
    ):
        small.apply(params | {"w": jnp.ones((3, 6))}, x)
    with pytest.raises(ValueError, match="params must be the tree that compact returned"):
        small.apply({"w": params["w"]}, x)
    with pytest.raises(ValueError, match="apply is another program"):
        small.plan.bind(lambda p, x: jnp.tanh(nets.mlp(p, x)))(params, x)
    with pytest.raises(ValueError, match="apply is another program"):
        small.plan.bind(lambda p, x: nets.mlp(p | {"mean": p["shift"], "shift": p["mean"]}, x))(
            params, x
        )
    with pytest.raises(ValueError, match="tree holds no array of the parameters"):
        small.plan.apply({"other": jnp.ones(6)})
    with pytest.raises(
        ValueError, match=r"w has shape \(3, 7\), where the parameter w of the plan"
    ):
        small.plan.apply({"w": jnp.ones((3, 7))})


def test_the_report_counts_what_went(small):
    (layer,) = small.report.layers
    assert (layer.name, layer.before, layer.after) == ("w", 6, 3)
    assert layer.arrays[0] == ("mean", 0) and ("v", 0) in layer.arrays
    before, after = small.report.before, small.report.after
    assert (before.parameters, after.parameters) == (56, 29)
    assert after.flops < before.flops and after.seconds > 0
    # Of 4 examples: the norm of 6 units holds two arrays of theirs at a time, and two vectors.
    assert (before.memory, after.memory) == (8 * (2 * 4 * 6 + 2 * 6), 8 * (2 * 4 * 3 + 2 * 3))
    assert small.report.difference < 1e-14
    assert re.search(r"w +6 +3", str(small.report)) and "<table" in small.report._repr_html_()


def test_memory_is_what_is_held_at_once():
    def products(x):
        y = jnp.sin(x)
        return jnp.outer(y, y).sum(0)  # two copies of y, and (10, 10)

    def loop(x):
        step = jax.lax.scan(lambda c, _: (jnp.cos(c) + c, None), x, None, length=7)
        return step[0]  # of a step: a cosine and a sum

    shape = jax.ShapeDtypeStruct((10,), jnp.float32)
    for apply, floats in ((products, 10 + 10 + 100), (loop, 10 + 2 * 10)):
        assert peak_bytes(read_program(jax.make_jaxpr(apply)(shape))) == 4 * floats


@pytest.mark.parametrize(
    "padding, shift, kept", [("SAME", 1.0, 6), ("SAME", -1.0, 3), ("VALID", 1.0, 3)]
)
def test_a_constant_before_zero_padding_stays_unless_it_is_zero(padding, shift, kept):
    apply, params = nets.cnn(padding), nets.cnn_params(shift)
    small = prune.compact(apply, params, nets.images())
    assert small.params["k"].shape == (3, 3, 2, kept)
    why = {reason for layer in small.report.layers for reason in layer.why}
    assert any("pads with zeros" in reason for reason in why) == (kept == 6)


def test_widths_are_rounded_up_and_the_least_silent_stay():
    params = nets.mlp_params()
    small = prune.compact(nets.mlp, params, nets.rows(), multiple_of=4)
    sizes = [
        sum(float((leaf[..., u] ** 2).sum()) for n, leaf in params.items() if n not in "vb")
        for u in range(6)
    ]
    sizes = np.array(sizes) + (params["v"] ** 2).sum(1)
    loudest = DEAD[np.argmax(sizes[DEAD])]
    kept = np.sort([*KEPT, loudest])
    np.testing.assert_array_equal(small.params["mean"], params["mean"][kept])


def test_declared_units_are_checked_and_go_alone():
    params = nets.mlp_params()
    mask = np.arange(6) == DEAD[0]
    small = prune.compact(nets.mlp, params, nets.rows(), silent={"scale": mask})
    assert small.params["scale"].shape == (5,)
    same = prune.compact(nets.mlp, params, nets.rows(), silent={("w", 1): mask})
    assert same.params["scale"].shape == (5,)
    with pytest.raises(ValueError, match="silent declares 1 units of 'scale' that are not silent"):
        prune.compact(nets.mlp, params, nets.rows(), silent={"scale": np.arange(6) == KEPT[0]})
    with pytest.raises(ValueError, match=r"silent\['scale'\] must be a mask of shape \(6,\)"):
        prune.compact(nets.mlp, params, nets.rows(), silent={"scale": np.ones(5, bool)})
    with pytest.raises(ValueError, match="silent names 'gamma', which is no array of params"):
        prune.compact(nets.mlp, params, nets.rows(), silent={"gamma": mask})
    with pytest.raises(ValueError, match="silent names axis 7 of 'w', which has 2 axes"):
        prune.compact(nets.mlp, params, nets.rows(), silent={("w", 7): mask})
    with pytest.raises(
        TypeError, match="silent must be masks by path, .* got list|parameter 'silent'"
    ):
        prune.compact(nets.mlp, params, nets.rows(), silent=["w"])


@pytest.mark.parametrize("axis", [1, -1, True])
def test_a_batch_is_in_front_or_there_is_none(axis):
    with pytest.raises(ValueError, match="batch_axis must be 0, or None where"):
        prune.compact(nets.mlp, nets.mlp_params(), nets.rows(), batch_axis=axis)


def test_unread_inputs_are_reported_and_cut_on_request():
    params = nets.mlp_params()
    params["w"] = params["w"].at[1].set(0)
    x = nets.rows()
    small = prune.compact(nets.mlp, params, x)
    assert small.report.dead_inputs["input 0"].tolist() == [1]
    less = prune.compact(nets.mlp, params, x, cut_inputs=True)
    assert less.params["w"].shape == (2, 3)
    (cut,) = less.plan.cut_inputs(x)
    assert cut.shape == (4, 2)
    np.testing.assert_allclose(less.apply(less.params, cut), nets.mlp(params, x), rtol=1e-11)


def test_constants_that_no_bias_takes_are_added_on_request():
    def apply(params, x):
        return jax.nn.relu(x @ params["w"] * params["scale"] + params["shift"]) @ params["v"]

    params, x = nets.mlp_params(), nets.rows()
    kept = prune.compact(apply, params, x)
    assert kept.params["w"].shape == (3, 6 - (params["shift"][DEAD] <= 0).sum())
    small = prune.compact(apply, params, x, add_constants=True)
    assert small.params["w"].shape == (3, 3)
    file = io.BytesIO()
    small.plan.save(file)
    file.seek(0)
    again = l1jax.load(file).bind(apply)(small.params, x[:2])
    np.testing.assert_allclose(again, apply(params, x[:2]), rtol=1e-11)


def test_a_branch_that_became_constant_is_folded_away():
    def apply(params, x):
        h = x @ params["a"] + params["c"]
        h = h + norm_branch(params, h)
        return h @ params["v"]

    def norm_branch(params, h):
        inner = jax.nn.relu(h @ params["w"] + params["d"])
        return norm(params, inner @ params["u"])

    norm = nets.norm
    params = nets.normal(
        3, a=(3, 4), c=4, w=(4, 6), d=6, u=(6, 4), scale=4, shift=4, mean=4, var=4, v=(4, 2)
    )
    params["scale"][:] = 0
    small = prune.compact(apply, nets.as_jax(params), nets.rows())
    assert small.params["w"].shape == (4, 0) and small.params["u"].shape == (0, 4)


@pytest.mark.float32
def test_float32_differs_by_rounding_only():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), nets.mlp_params())
    x = nets.rows().astype(jnp.float32)
    small = prune.compact(nets.mlp, params, x)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(small.params))
    assert small.params["w"].shape == (3, 3) and small.report.difference < 1e-5


def test_numpy_parameters_stay_numpy():
    params = jax.tree.map(np.asarray, nets.mlp_params())
    small = prune.compact(nets.mlp, params, nets.rows())
    assert all(isinstance(leaf, np.ndarray) for leaf in small.params.values())


def dependent(params, x):
    h = x @ params["w"]
    h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)
    return jax.nn.relu(h * params["scale"] + params["shift"]) @ params["v"]


def stateful():
    calls = []

    def apply(params, x):
        calls.append(1)
        return nets.mlp(params, x) * len(calls)

    return apply


def printing(params, x):
    jax.debug.print("{}", x.sum())
    return nets.mlp(params, x)


@pytest.mark.parametrize(
    "apply, message",
    [
        (dependent, "apply depends on the batch: the first 2 examples give another output alone"),
        (stateful(), "apply must be a pure function of its arguments, but two traces of it differ"),
        (printing, "apply must be a pure function of its arguments, but it has side effects"),
        (lambda p, x: jnp.log(-jnp.abs(nets.mlp(p, x))), "apply gives values that are not finite"),
    ],
)
def test_a_function_that_is_not_of_its_arguments_is_refused(apply, message):
    with pytest.raises(ValueError, match=message):
        prune.compact(apply, nets.mlp_params(), nets.rows())


def test_bad_arguments_get_a_sentence():
    params, x = nets.mlp_params(), nets.rows()
    with pytest.raises(ValueError, match="params is not finite at w"):
        prune.compact(nets.mlp, params | {"w": params["w"].at[0, 0].set(jnp.nan)}, x)
    with pytest.raises(ValueError, match="example_inputs is not finite at 0"):
        prune.compact(nets.mlp, params, x.at[0, 0].set(jnp.inf))
    with pytest.raises(ValueError, match="params holds no array"):
        prune.compact(lambda p, x: x, {}, x)
    with pytest.raises(TypeError, match="params holds a shape at"):
        prune.compact(nets.mlp, jax.eval_shape(lambda: params), x)
    with pytest.raises(TypeError, match="params holds a traced array at"):
        jax.jit(lambda p: prune.compact(nets.mlp, p, x).params)(params)
    with pytest.raises(ValueError, match="multiple_of must be an integer of at least 1"):
        prune.compact(nets.mlp, params, x, multiple_of=0)
    with pytest.raises(TypeError, match=NO_FUNCTION):
        prune.compact(3, params, x)


def test_bad_arguments_of_the_smaller_function_get_a_sentence(small):
    params, x = small.params, nets.rows()
    with pytest.raises(ValueError, match=r"input 0 has shape \(3,\), where compact got \(4, 3\)"):
        small.apply(params, x[0])
    with pytest.raises(TypeError, match=NO_FUNCTION):
        small.plan.bind(3)
    with pytest.raises(TypeError, match="file must be a path, or a file opened for writing, got 3"):
        small.plan.save(3)
    batch = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 3"), x.dtype)
    with pytest.raises(ValueError, match=r"input 0 has the symbolic shape \(b, 3\)"):
        jax.export.export(jax.jit(small.apply))(params, batch)


def test_a_python_number_among_the_inputs_stays_one():
    def apply(params, x, factor):
        return factor * nets.mlp(params, x)

    params, x = nets.mlp_params(), nets.rows()
    small = prune.compact(apply, params, x, 2.0)
    np.testing.assert_allclose(small.apply(small.params, x, 3.0), apply(params, x, 3.0), rtol=1e-11)
    with pytest.raises(ValueError, match="must hold arrays at 0 as for compact, and .* 0, 1"):
        small.apply(small.params, x, jnp.asarray(3.0))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("inside", "outside"),
    [(jnp.bfloat16, jnp.float32), (jnp.float16, jnp.float64), (jnp.float32, jnp.float64)],
)
def test_a_program_is_compared_within_the_rounding_of_its_coarsest_dtype(inside, outside):
    def apply(params, x):
        cast = jax.tree.map(lambda leaf: leaf.astype(inside), params)
        return nets.mlp(cast, x.astype(inside)).astype(outside)

    params = nets.normal(3, w=(8, 64), scale=64, shift=64, mean=64, var=64, v=(64, 2), b=2)
    params["scale"][::2] = 0
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, outside), params)
    small = prune.compact(apply, params, nets.rows(16, 8).astype(outside))
    assert small.params["w"].shape == (8, 32)
    assert 0 < small.report.difference < 30 * float(jnp.finfo(inside).eps)


@pytest.mark.fast
@pytest.mark.parametrize("n", [2, 3])
def test_a_batch_size_whose_program_is_another_one_is_not_compared(n):
    """One example alone: `take_along_axis` writes other operations."""

    def apply(params, x, which):
        return nets.mlp(params, jnp.take_along_axis(x, which, axis=1))

    which = jnp.asarray(np.random.default_rng(0).integers(0, 3, size=(n, 3)))
    params = nets.mlp_params()
    small = prune.compact(apply, params, nets.rows(n), which)
    assert small.params["w"].shape == (3, 3)
    with pytest.raises(ValueError, match="apply is another program for these arguments"):
        small.apply(small.params, nets.rows(1), which[:1])


@pytest.mark.fast
@pytest.mark.parametrize("fill", [True, False, 1j])
def test_booleans_and_complex_numbers_may_be_written_in_the_program(fill):
    def apply(params, x):
        mask = jnp.tril(jnp.ones((4, 4), bool)) & jnp.full((4, 4), bool(fill))
        scores = jnp.where(mask, x @ x.T, -1e9)
        phase = (fill * jnp.exp(1j * x)).real if isinstance(fill, complex) else x
        return jax.nn.softmax(scores) @ nets.mlp(params, phase)

    params, x = nets.mlp_params(), nets.rows()
    small = prune.compact(apply, params, x, batch_axis=None)
    assert small.params["w"].shape == (3, 3)
    np.testing.assert_allclose(small.apply(small.params, x), apply(params, x), rtol=1e-10)


def test_a_plan_is_loaded_in_a_process_that_has_not_used_the_package(tmp_path):
    params, x = nets.as_jax(nets.mlp_params()), nets.rows()
    small = prune.compact(nets.mlp, params, x)
    small.plan.save(tmp_path / "plan.npz")
    program = f"import l1jax; print(type(l1jax.load({str(tmp_path / 'plan.npz')!r})).__name__)"
    out = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert out.stdout.split() == ["PruningPlan"]
