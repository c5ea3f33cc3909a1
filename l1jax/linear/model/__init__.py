"""A penalised linear model on the scale of the solver: problem, null model, Newton step, certificate.

May import `data` and what that may import.
"""
