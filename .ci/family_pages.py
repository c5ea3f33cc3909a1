"""What every penalty and every loss is and can do, as Markdown, asked of the classes themselves.

On docs/all-penalties.md and docs/all-losses.md a table, and a section with a picture for each class, take the
place of `MARK`. A public class joins by itself; one that needs arguments beside its strength has a line in
`ARGUMENTS`. What it is good for is what the tables of docs/choosing.md say.
"""

import dataclasses
import functools
import importlib
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from family_pictures import loss_picture, penalty_picture, stands_alone

import l1jax
from l1jax._modules import with_fields
from l1jax.linear.data._inputs import read
from l1jax.linear.engines._engine import ENGINES, Plan
from l1jax.linear.model._prepare import prepare_inputs

ROOT = Path(__file__).parents[1]
MARK = "<!-- made from the classes -->"
FAMILIES = {"all-penalties.md": "penalties", "all-losses.md": "losses"}

# What a class needs to be shown, beside a strength of 1: penalties of two coefficients.
ARGUMENTS = {
    "Box": {"lower": -1.0, "upper": 1.0},
    "AsymmetricL1": {"negative": 0.4},
    "Composed": {"penalty": l1jax.L1(1.0), "operator": np.array([[1.0, -1.0], [0.5, 0.5]])},
    "HierarchicalGroupL1": {"groups": [[0, 1], [1]]},
    "Mixed": {"losses": [l1jax.SquaredError(), l1jax.Logistic()]},
    "OverlappingGroupL1": {"groups": [[0, 1], [1]]},
    "Quantile": {"level": 0.8},
    "SLOPE": {"weights": [1.5, 0.5]},
    "StudentT": {"df": 3.0},
    "Tweedie": {"power": 1.5},
}
STRENGTHS = {"lam": 1.0, "tau": 1.0, "k": 1, "groups": [0, 0]}

# Where two numbers stand among the coefficients, if they are not all of them; and how a caption says so.
PLACES = {
    "NuclearNorm": (jnp.diag, "X = diag(x₁, x₂)"),
    "TrendFilter": (lambda x: jnp.pad(x, 1), "x = (0, x₁, x₂, 0)"),
}

# Targets by their form, the most general first: a loss is shown with the first that it takes.
VECTORS = {
    "numbers": [-1.0, 0.0, 2.0],
    "numbers ≥ 0": [0.0, 0.5, 2.0],
    "numbers > 0": [0.5, 1.0, 2.0],
    "classes 0 … K−1": [0, 1, 2],
    "0 or 1": [0, 1],
}
MATRICES = {
    "numbers (n, k)": [[-1.0, 0.5], [0.5, -2.0], [2.0, 0.0]],
    "rows of K probabilities": [[0.5, 0.5], [1.0, 0.0], [0.2, 0.8]],
    "(time, event)": [[1.0, 1], [2.0, 1], [3.0, 0]],
    "(start, stop, event)": [[0.0, 1.0, 1], [0.0, 2.0, 1], [1.0, 3.0, 0]],
}
BY_LOSS = {"a column per loss": [[-1.0, 0.0], [0.5, 1.0], [2.0, 1.0]]}  # a number and a label
ROWS = 12  # of the problems that engines are asked about
GRADIENT_ENGINES = ("fista", "sequential", "parallel")  # these serve everything

# How a row of a table of docs/choosing.md is said in a sentence: before what is wanted, and before why.
WORDS = {"penalties": ("", ": "), "losses": ("y is ", "; η is ")}


def pictures():
    """The pictures of all classes, as SVG by their place on the site."""
    made = {}
    with jax.enable_x64(True):
        for name, one in instances("penalties").items():
            place, _ = place_of(name)
            made[picture_path(name)] = penalty_picture(
                one, place, has_prox(one, place(jnp.ones(2)))
            )
        for name, one in instances("losses").items():
            made[picture_path(name)] = loss_picture(
                one, np.asarray(next(iter(targets_of(one).values())))
            )
    return made


def filled(markdown, uri):
    """A page with the table and the sections in their place, if it is one that has them."""
    if uri not in FAMILIES:
        return markdown
    with jax.enable_x64(True):
        return markdown.replace(MARK, family_page(FAMILIES[uri]))


def family_page(family):
    """A table with a row for each class of a family, and a section for each, as Markdown."""
    describe, explain = {
        "penalties": (penalty_row, lambda name, _: place_of(name)[1]),
        "losses": (loss_row, lambda _, loss: slice_words(loss)),
    }[family]
    rows = {name: describe(name, one) for name, one in instances(family).items()}
    columns = list(next(iter(rows.values())))
    table = [columns, ["---"] * len(columns), *(row.values() for row in rows.values())]
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in table]
    sections = [
        section(name, explain(name, one), uses(name, family))
        for name, one in instances(family).items()
    ]
    return "\n\n".join(["\n".join(lines), "## One by one", *sections])


def section(name, note, uses):
    """A class with its picture and what it shows, its formula, and what it is good for."""
    parts = [
        f"### {name}",
        f"![{name}]({picture_path(name)}){{ width=640 }}",
        first_sentence(name) + (f" The picture: {note}." if note else ""),
        "\n".join(f"- {use}" for use in uses),
        f"[Arguments and an example][l1jax.{name}]",
    ]
    return "\n\n".join(parts)


def picture_path(name):
    """Where the site has the picture of a class."""
    return f"family/{name}.svg"


@functools.cache
def classes(family):
    """The public classes of a family by name, in the order of their page of the reference."""
    module = importlib.import_module(f"l1jax.{family}")
    entries = (ROOT / "docs/api" / f"{family}.md").read_text(encoding="utf-8")
    found = [getattr(module, name) for name in module.__all__]
    found = [c for c in found if inspect.isclass(c) and not inspect.isabstract(c)]
    found.sort(key=lambda c: entries.find(f"l1jax.{c.__name__}\n"))
    return {c.__name__: c for c in found}


@functools.cache
def instances(family):
    """An object of each class of a family, by name."""
    return {name: instance(one) for name, one in classes(family).items()}


def instance(one):
    """An object of a class, by its line in `ARGUMENTS`."""
    takes = inspect.signature(one).parameters
    given = {name: value for name, value in STRENGTHS.items() if name in takes}
    try:
        return one(**given | ARGUMENTS.get(one.__name__, {}))
    except (TypeError, ValueError) as error:
        raise TypeError(f"say in ARGUMENTS of {__file__} how to make {one.__name__}") from error


def place_of(name):
    """How two numbers become coefficients of a penalty, and the words for it."""
    return PLACES.get(name, (lambda x: x, ""))


def first_sentence(name):
    """The formula of a class, from its docstring."""
    return _docstring(name).partition("\n\n")[0].replace("\n", " ")


def source(name):
    """Where a class is from, by its docstring."""
    found = re.search(r"Source: (.+?)\.?(?:\n\n|\Z)", _docstring(name), re.DOTALL)
    return found[1].replace("\n", " ") if found else ""


def _docstring(name):
    return inspect.getdoc(getattr(l1jax, name)) or ""


def uses(name, family):
    """What docs/choosing.md says that a class is good for."""
    text = (ROOT / "docs/choosing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.*?) \|(.*)\|$", text.replace(r"\|", "¦"), re.MULTILINE)
    wants, whys = WORDS[family]
    mine = [row for row in rows if re.search(rf"`l1jax\.{name}`", row[1])]
    said = [
        f"{wants}**{want}**" + (whys + why.strip() if why.strip() else "") for want, _, why in mine
    ]
    return [use.replace("¦", "|") for use in said]


def link(name):
    """The first cell of a row."""
    return f"[`{name}`][l1jax.{name}] [picture](#{name.lower()})"


# Penalties.


def penalty_row(name, pen):
    """What a penalty can do, by the heading of the column."""
    coefs = place_of(name)[0](jnp.ones(2))
    squared, classes = problems(coefs.shape)
    solvable = has_prox(pen, coefs)
    return {
        "penalty": link(name),
        "R(x)": first_sentence(name),
        "prox": prox_words(pen) if solvable else "none in closed form",
        "certificate": certificate_words(pen, coefs) if solvable else "of `minimize`",
        "derivative by": ", ".join(f"`{n}`" for n in derivatives(pen, coefs)) if solvable else "",
        "training": ", ".join(training_steps(pen, coefs)),
        "engines, squared error": engines(squared, pen) if solvable else "`minimize`",
        "engines, classes": engines(classes, pen) if solvable else "`minimize`",
        "source": source(name),
    }


def has_prox(pen, coefs):
    """Whether a penalty has a prox, or refuses."""
    try:
        jax.eval_shape(lambda x: pen.prox(x, 0.5), coefs)
    except TypeError:
        return False
    return True


def prox_words(pen):
    """Which steps the prox takes."""
    steps = {"scalar": "one step", "diagonal": "a step per coordinate"}[pen.metric]
    return steps if np.isinf(pen.max_step) else f"{steps}, below {float(pen.max_step):.3g}"


def certificate_words(pen, coefs):
    """What judges a fit, and whether there is a λmax."""
    judge = "gap" if pen.convex else "kkt"
    if not (pen.has_strength and pen.strength == "lam"):
        return judge
    gradient = 0.1 + jnp.arange(coefs.size, dtype=coefs.dtype).reshape(coefs.shape)
    has_end = np.isfinite(jax.jit(lambda g: pen.lambda_max(g))(gradient))
    return f"{judge}, {'λmax' if has_end else 'no λmax'}"


def derivatives(pen, coefs):
    """The numbers in a penalty by which its prox, and so a fit, has derivatives."""
    numbers = {field.name: getattr(pen, field.name) for field in dataclasses.fields(pen)}
    numbers = {name: value for name, value in numbers.items() if is_number(value)}
    points = jnp.asarray(np.random.default_rng(0).normal(0, 2, (8, *coefs.shape)))

    def prox(numbers):
        return jax.vmap(lambda z: with_fields(pen, **numbers).prox(z, 0.5))(points)

    moves = jax.jit(jax.jacfwd(prox))(jax.tree.map(jnp.asarray, numbers))
    return [name for name, move in moves.items() if np.isfinite(move).all() and np.any(move)]


def is_number(value):
    """Whether a field is one number."""
    return isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind == "f"


def training_steps(pen, coefs):
    """The optimisers that train with it: one whose metric is a number, and one with a metric per coordinate."""
    found = []
    for name in ("prox_sgd", "prox_adam"):
        try:
            tx = getattr(l1jax, name)(0.1, pen)
            jax.eval_shape(lambda x, tx=tx: tx.update(x, tx.init(x), x), coefs)
        except (TypeError, ValueError):
            continue
        found.append(f"`{name}`")
    return found


# Losses.


def loss_row(name, loss):
    """What a loss is, by the heading of the column."""
    forms = targets_of(loss)
    problem = problem_of(loss, next(iter(forms.values())), 2)
    loss = problem.loss  # with what it takes from the targets
    bound = "unbounded" if loss.smoothness is None else f"≤ {loss.smoothness:g}"
    positive = "positive" if loss.has_curvature else "not positive everywhere"
    return {
        "loss": link(name),
        "of y and η": first_sentence(name),
        "y": " or ".join(forms),
        "curvature": f"{positive if loss.convex else 'not convex'}, {bound}",
        "certificate": "gap" if has_gap(problem) else "kkt",
        "null model": null_words(problem),
        "intercept": "yes" if loss.has_intercept else "no",
        "classes": "yes" if loss.has_classes else "",
        "engines with L1": engines(problem, l1jax.L1(1.0)),
        "source": source(name),
    }


def targets_of(loss):
    """Examples of the targets that a loss takes, by their form."""
    if isinstance(loss, l1jax.Mixed):
        return BY_LOSS
    vectors = [form for form in VECTORS if takes(loss, VECTORS[form])][:1]
    matrices = [form for form in MATRICES if takes(loss, MATRICES[form])]
    if "numbers (n, k)" in matrices:  # the others are of that form too
        matrices = ["numbers (n, k)"]
    return {form: (VECTORS | MATRICES)[form] for form in vectors + matrices}


def takes(loss, targets):
    """Whether a loss accepts these targets."""
    try:
        loss.check_targets(np.asarray(targets, float))
    except ValueError:
        return False
    return True


def has_gap(problem):
    """Whether a loss has a Fenchel gap at the null model."""
    eta = problem.eta(problem.null.point)
    with np.errstate(all="ignore"):
        return bool(np.isfinite(problem.loss.fenchel_gap(problem.y, eta, np.ones(()), problem.s)))


def null_words(problem):
    """What a model of the intercept alone predicts."""
    if not problem.loss.has_intercept:
        return "η = 0"
    found = problem.loss.inverse_link(problem.eta(problem.null.point))[0]
    mean = problem.s @ np.asarray(problem.y)
    is_mean = np.shape(found) == np.shape(mean) and np.allclose(found, mean)
    return "the mean of y" if is_mean else "its minimiser"


def slice_words(loss):
    """Of which η the picture shows the loss, where there are several."""
    shape = np.shape(loss.encode(np.asarray(next(iter(targets_of(loss).values())), float)))
    shape = loss.predictor_shape(shape)
    if isinstance(loss, l1jax.Mixed):
        return "squared error and a logistic loss; η is that of the first response, that of the second is 0"
    if len(shape) > 1:
        return "η is that of class 0, those of the other classes are 0"
    return (
        "" if stands_alone(loss, shape) else "η is that of one row of three, with the others at 0"
    )


# Engines.


@functools.cache
def problems(shape):
    """Problems with coefficients of this shape: of squared error, and of a loss that classifies."""
    p, *responses = shape
    y = np.random.default_rng(1).normal(size=(ROWS, *responses))
    if responses:
        labels, loss = y.argmax(axis=1), l1jax.Multinomial(*responses)
    else:
        labels, loss = y > 0, l1jax.Logistic()
    return problem_of(l1jax.SquaredError(), y, p), problem_of(loss, labels, p)


def problem_of(loss, y, p):
    """A problem of p features, whose targets are these, over and over."""
    y = np.asarray(y, float)
    y = y[np.arange(ROWS) % len(y)]
    X = np.random.default_rng(0).normal(size=(ROWS, p))
    inputs = read(X, y, l1jax.L1(1.0), loss, None, None)
    return prepare_inputs(inputs, inputs.pen, inputs.loss, True, False)


def engines(problem, pen):
    """The engines that say that they serve a problem with this penalty."""
    plan = Plan(problem, pen, np.ones(1), problem.null.point, 1e-6, 100)
    found = [name for name, engine in ENGINES.items() if engine.supports(plan) is None]
    special = [f"`{name}`" for name in found if name not in GRADIENT_ENGINES]
    return ", ".join(special) or "gradient steps"
