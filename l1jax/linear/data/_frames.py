"""Tables and series of pandas and polars as arrays; advice on columns that are not numeric."""

from __future__ import annotations

from typing import Any

import numpy as np

_SAMPLE = 200  # entries of a column of text from which its kind is guessed


def is_frame(values: Any) -> bool:
    return hasattr(values, "columns") and hasattr(values, "to_numpy")


def is_polars(values: Any) -> bool:
    return not hasattr(values, "iloc")


def only_column(table: Any) -> Any:
    """A table of one column as a series: it holds one value per row, as a series does."""
    if table.shape[1] != 1:
        return table
    return table.to_series() if is_polars(table) else table.iloc[:, 0]


def read_series(series: Any, name: str) -> np.ndarray:
    """Returns the entries of a series; missing numbers as NaN."""
    if not _is_numeric(series.dtype):
        return series.to_numpy()
    return read_frame(series.to_frame(), name)[:, 0]


def label_advice(values: np.ndarray, name: str) -> str:
    """Says how labels, or numbers kept as text, become the numbers that a loss takes."""
    entries = [value for value in values.flat if value is not None]
    if entries and all(_is_a_number(value) for value in entries):
        return f"It holds numbers: convert it, for example with {name}.astype(float)."
    labels = sorted({str(value) for value in entries})
    if len(labels) <= 2:
        last = labels[-1] if labels else "yes"
        return f"Labels become numbers with, for example, ({name} == {last!r}).astype(float)."
    return (
        f"The {len(labels)} labels become the classes of l1jax.Multinomial() with numpy.unique({name}, "
        "return_inverse=True)[1]."
    )


def read_frame(table: Any, name: str) -> np.ndarray:
    """Returns the numbers of a table, missing ones as NaN. Raises: TypeError with advice on other columns."""
    kinds = list(table.dtypes)
    others = [i for i, kind in enumerate(kinds) if not _is_numeric(kind)]
    if others:
        first, rest = others[0], len(others) - 1
        more = f" (so have {rest} other columns)" if rest > 1 else " (so has one other column)"
        column = table.columns[first]
        raise TypeError(
            f"{name}: column {column!r} has dtype {kinds[first]}, which is not numeric"
            f"{more if rest else ''}. {_advice(table, name, column, kinds[first])}"
        )
    if is_polars(table):
        return np.asarray(table.to_numpy())
    dtype = np.float64 if any(kind != np.float32 for kind in kinds) else np.float32
    return table.to_numpy(dtype=dtype, na_value=np.nan)


def _is_numeric(kind: Any) -> bool:
    if hasattr(kind, "is_numeric"):  # polars
        return kind.is_numeric() or str(kind) == "Boolean"
    return getattr(kind, "kind", "O") in "fiub"


def _advice(table: Any, name: str, column: Any, kind: Any) -> str:
    place, what = f"{name}[{column!r}]", str(kind)
    polars = is_polars(table)
    if what.lower().startswith(("date", "timedelta", "duration")):
        days = "dt.total_days()" if polars else "dt.days"
        return (
            "Make a number of it, for example the days since the first, "
            f"({place} - {place}.min()).{days}, or drop it."
        )
    if not what.lower().startswith(("cat", "enum")):
        entries = [value for value in list(table[column])[:_SAMPLE] if value is not None]
        fraction = np.mean([_is_a_number(value) for value in entries]) if entries else 0.0
        if fraction > 0.5:
            convert = f"{place}.cast(float, strict=False)"
            if not polars:
                rest = "" if fraction == 1 else ', errors="coerce"'
                convert = f"{place} = pandas.to_numeric({place}{rest})"
            missing = "" if fraction == 1 else "; what is none becomes missing"
            return f"It holds numbers: convert it, for example with {convert}{missing}."
    dummies = (
        f"{name}.to_dummies({column!r})"
        if polars
        else f"pandas.get_dummies({name}, drop_first=True, dtype=float)"
    )
    return f"Encode it first, for example with {dummies}, or drop it."


def _is_a_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
