"""Tests of scikit-learn that the estimators of l1jax do not pass, by reason. A `*` stands for anything."""

EXCUSED: dict[str, list[str]] = {}
