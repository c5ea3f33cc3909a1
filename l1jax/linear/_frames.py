"""Tables of pandas and polars as arrays, and what to do about columns that hold no numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

_SOME = 200  # entries that are looked at to tell what a column of text holds


def is_frame(values: Any) -> bool:
    return hasattr(values, "columns") and hasattr(values, "to_numpy")


def is_polars(values: Any) -> bool:
    return not hasattr(values, "iloc")


def read_frame(table: Any, name: str) -> np.ndarray:
    """Its numbers, missing ones as NaN. Raises: TypeError that says what to do about other columns."""
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
        entries = [value for value in list(table[column])[:_SOME] if value is not None]
        share = np.mean([_is_a_number(value) for value in entries]) if entries else 0.0
        if share > 0.5:
            convert = f"{place}.cast(float, strict=False)"
            if not polars:
                rest = "" if share == 1 else ', errors="coerce"'
                convert = f"{place} = pandas.to_numeric({place}{rest})"
            missing = "" if share == 1 else "; what is none becomes missing"
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
