"""How a strength is chosen: cross-validation, information criteria, relaxed and adaptive fits.

May import all of `linear`, and what that may import.
"""
