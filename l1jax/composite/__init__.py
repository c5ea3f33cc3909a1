"""`minimize`: a smooth function of any pytree plus a penalty, by proximal gradient steps.

May import the ground floor, `implicit`, `penalties`.
"""
