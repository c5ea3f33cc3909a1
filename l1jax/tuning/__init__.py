"""`tune`: hyperparameters by gradient, the criteria that they are chosen by, the space that is searched.

May import the public names of `linear`.
"""
