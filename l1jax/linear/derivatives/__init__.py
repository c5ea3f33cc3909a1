"""Derivatives of fits, through the conditions of optimality.

May import `implicit`, `results`, `host`, `model`, `data` and what these may import.
"""
