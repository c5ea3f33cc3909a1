"""Compilation of l1jax's own programs: cheaper options, and a cache of compiled programs on disk.

`program` is `equinox.filter_jit` for functions of l1jax. Where it is called with known values on one device it
compiles by itself, and keeps what it has compiled in a folder, which the next process reads. Within a
function that is traced, for a user's own losses, penalties and matrices, and on several devices it is
`filter_jit`, and nothing is kept. Where a user has set JAX's own cache, that one serves, and this does not:
what XLA has read from a file it does not write to another.

A file is named by the program's text, its options, the versions and the processor: one that is there is
right. It is written under another name first, so that no half of one is ever read; what cannot be read,
loaded or written is compiled, and that is all.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import pickle
import platform
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jaxlib.version
import numpy as np
from jax.core import Tracer
from jax.experimental import serialize_executable
from jax.sharding import get_abstract_mesh

F = TypeVar("F", bound=Callable[..., Any])

_VARIABLE = "L1JAX_CACHE"
_OFF = {"0", "off", "no", "false"}
_LEAST_SECONDS = 0.1  # of compiling, from which a program is worth a file
_MOST_BYTES = 2**28  # of all files; the oldest go first
# Settings of JAX that a program depends on, beside its arguments.
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_softmax_custom_jvp",
    "jax_default_device",
)
# Those with which JAX is asked to do more than to run a program.
_DEBUGGING = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs", "jax_log_compiles")

_LARGE = 2**12  # entries of an array
_SMALL = 2**14  # entries of all arguments of a program
_LOOP_PASSES = "while-loop-invariant-code-motion,while-loop-constant-sinking,simplify-while-loops"
_MOST_PROGRAMS = 1024  # of one function, in memory

_PROGRAMS: list[OrderedDict[Any, Callable[..., Any]]] = []
_folder: Path | None = None
_is_set = False


def set_compilation_cache(folder: Any) -> None:
    """Says where l1jax keeps its compiled programs; None: nowhere.

    Unless it is called, that is the folder in the environment variable `L1JAX_CACHE` ("0" or "off":
    nowhere), or `l1jax` in the user's cache folder. Only programs of l1jax's own are kept, never those of a
    user's functions, losses, penalties or matrices. Where JAX's own cache is set, that one serves in place
    of this. A folder that cannot be read or written does no harm. At most 256 MB are kept, those that were
    used last.

    **Arguments:**

    - `folder`: a name or a path; it is made when there is something to keep.

    **Raises:** TypeError for what is no path.

    **Example:**

    ```python
    >>> import l1jax
    >>> l1jax.set_compilation_cache(None)  # off

    ```
    """
    global _folder, _is_set
    if folder is not None and not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder must be a path or None, got {folder!r}.")
    _folder, _is_set = None if folder is None else Path(folder).expanduser(), True


def cache_folder() -> Path | None:
    """The folder for compiled programs; None where they are not kept."""
    if _is_set:
        return _folder
    value = os.environ.get(_VARIABLE, "").strip()
    if value:
        return None if value.lower() in _OFF else Path(value).expanduser()
    with suppress(RuntimeError):  # there is no home
        return _user_cache() / "l1jax"
    return None


def _user_cache() -> Path:
    """The folder in which programs of this user keep what they can do without."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"])
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given) if os.path.isabs(given) else Path.home() / ".cache"


class _Static(eqx.Module):
    """Whatever a function returns that is no array."""

    value: Any = eqx.field(static=True)


def program(function: F) -> F:
    """`equinox.filter_jit`, for a function of l1jax itself; see the module."""
    traced = functools.cache(lambda: eqx.filter_jit(_with_hidden_constants(function)))
    compiled: OrderedDict[Any, Callable[..., Any]] = OrderedDict()
    lock = threading.RLock()
    _PROGRAMS.append(compiled)

    def flat(static: Any, arrays: list[Any]) -> Any:
        tree, leaves = static
        arrays_ = iter(arrays)
        leaves = [next(arrays_) if leaf is _ARRAY else leaf for leaf in leaves]
        out = function(*jax.tree.unflatten(tree, leaves))
        found, rest = eqx.partition(out, eqx.is_array)
        return found, _Static(rest)

    flat.__name__ = flat.__qualname__ = getattr(function, "__name__", "program")
    to_lower = functools.cache(lambda: jax.jit(flat, static_argnums=0))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            args = _positional(function, args, kwargs)
        leaves, tree = jax.tree.flatten(args)
        arrays = [leaf for leaf in leaves if isinstance(leaf, np.ndarray | jax.Array | np.generic)]
        is_plain = all(map(_is_plain, arrays)) and get_abstract_mesh().empty
        if not is_plain or any(map(_setting, _DEBUGGING)):
            return traced()(*args)
        is_array = (np.ndarray, jax.Array, np.generic)
        static = (tree, tuple(_ARRAY if isinstance(leaf, is_array) else leaf for leaf in leaves))
        shapes = tuple((x.shape, x.dtype, getattr(x, "weak_type", False)) for x in arrays)
        key = (static, shapes, tuple(map(_setting, _SETTINGS)))
        try:
            run = compiled.get(key)
        except TypeError:  # something in it has no hash
            return traced()(*args)
        if run is None:
            with lock:
                run = compiled.get(key)
                if run is None:
                    run = _obtain(to_lower().lower(static, arrays), arrays, _is_own(args))
                    compiled[key] = run
                    if len(compiled) > _MOST_PROGRAMS:
                        compiled.popitem(last=False)
        found, rest = run(arrays)
        return eqx.combine(found, rest.value)

    return cast(F, call)


def _with_hidden_constants(function: F) -> F:
    """The function, large arguments of which XLA does not compute with.

    Within a function that a user has compiled, data that it closes over are constants. XLA would compute what
    follows from these alone while it compiles, in an interpreter: minutes, for what takes a millisecond.
    """

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*jax.tree.map(_hidden, args))

    return cast(F, call)


def _hidden(leaf: Any) -> Any:
    is_large = isinstance(leaf, jax.Array) and leaf.size >= _LARGE
    return jax.lax.optimization_barrier(leaf) if is_large else leaf


def forget_programs() -> None:
    """Drops what is compiled from memory, as `jax.clear_caches` does for JAX's own."""
    for compiled in _PROGRAMS:
        compiled.clear()


class _Array:
    """Stands for an array among what is static."""


_ARRAY = _Array()


def _positional(function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> tuple:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.args


def _setting(name: str) -> Any:
    return getattr(jax.config, name, None)


def _is_plain(array: Any) -> bool:
    """Whether an array is known, and on one device, on which programs run unless told otherwise."""
    if isinstance(array, Tracer):
        return False
    if not isinstance(array, jax.Array):
        return True
    devices = array.sharding.device_set
    return len(devices) == 1 and next(iter(devices)) == _device()


def _device() -> Any:
    given = _setting("jax_default_device")
    return jax.local_devices()[0] if given is None or isinstance(given, str) else given


def _is_own(tree: Any) -> bool:
    """Whether all that a program is made of is l1jax's."""

    def is_foreign(node: Any) -> bool:
        kind = type(node) if not callable(node) else node
        home = getattr(kind, "__module__", "") or ""
        return (isinstance(node, eqx.Module) or callable(node)) and not home.startswith("l1jax.")

    return not any(map(is_foreign, jax.tree.leaves(tree, is_leaf=is_foreign)))


def _options(size: int) -> dict[str, Any]:
    """Options that take half or more off compiling on a CPU, for arguments of that many numbers together.

    Without fusion emitters what is compiled is as fast. Small programs run in milliseconds however they are
    compiled: their machine code is not optimised, nor what their loops compute moved.
    """
    options: dict[str, Any] = {}
    if jax.default_backend() == "cpu":
        if size <= _SMALL:
            options |= {"xla_backend_optimization_level": 0, "xla_disable_hlo_passes": _LOOP_PASSES}
        if jax.__version_info__ < (0, 11):
            options |= {"xla_cpu_use_fusion_emitters": False}
    return options


def _obtain(lowered: Any, arrays: list[Any], is_own: bool) -> Callable[..., Any]:
    """The compiled program: from its file, or compiled now, and then kept if it is l1jax's own."""
    options = _options(sum(int(np.size(array)) for array in arrays))
    folder = cache_folder() if is_own and not _setting("jax_compilation_cache_dir") else None
    if folder is None:
        return lowered.compile(options)
    file = folder / f"{_fingerprint(lowered, options)}.bin"
    with suppress(Exception):  # whatever it is that is wrong with a file, compiling helps
        found = _read(file, lowered)
        if found is not None:
            jax.block_until_ready(found(arrays))  # what lacks a part says so only here
            return found
    begin = time.perf_counter()
    compiled = lowered.compile(options)
    if time.perf_counter() - begin >= _LEAST_SECONDS:
        with suppress(Exception):
            _write(file, compiled)
    return compiled


def _fingerprint(lowered: Any, options: dict[str, Any]) -> str:
    """A name for a program, its options, and what compiles and runs it."""
    device = _device()
    what = (
        lowered.as_text(),
        str(lowered.args_info),
        sorted(options.items()),
        jax.__version__,
        jaxlib.version.__version__,
        os.environ.get("XLA_FLAGS", ""),
        device.platform,
        device.device_kind,
        getattr(device.client, "platform_version", ""),
        _processor(),
    )
    return hashlib.sha256(repr(what).encode()).hexdigest()[:40]


@functools.cache
def _processor() -> str:
    """What the processor of this machine can do."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()} {platform.node()}"


def _read(file: Path, lowered: Any) -> Callable[..., Any] | None:
    if not file.exists():
        return None
    digest, payload = pickle.loads(file.read_bytes())
    if hashlib.sha256(payload).hexdigest() != digest:
        return None
    in_tree = jax.tree.structure(lowered.args_info)
    found = serialize_executable.deserialize_and_load(
        payload, in_tree, lowered.out_tree, execution_devices=[_device()]
    )
    with suppress(OSError):
        os.utime(file)  # it was used
    return found


def _write(file: Path, compiled: Any) -> None:
    payload, _, _ = serialize_executable.serialize(compiled)
    content = pickle.dumps((hashlib.sha256(payload).hexdigest(), payload))
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    number, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(number, "wb") as part:
            part.write(content)
        os.replace(name, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    _forget_oldest(file.parent)


def _forget_oldest(folder: Path) -> None:
    files = [(file, file.stat()) for file in folder.glob("*.bin")]
    total = sum(stat.st_size for _, stat in files)
    for file, stat in sorted(files, key=lambda pair: pair[1].st_mtime):
        if total <= _MOST_BYTES:
            return
        with suppress(OSError):
            file.unlink()
            total -= stat.st_size
