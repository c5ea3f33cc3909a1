"""Twins of the data in NumPy and SciPy, for engines whose arrays change their sizes.

May import `model`, `data` and what these may import.
"""
