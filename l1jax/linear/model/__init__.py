"""A penalised linear model on the scale of the solver: problem, null model, Newton step, certificate.

May import `data`, `composite` and what these may import.
"""
