"""What users hand in, read and checked; and data matrices as operators, dense, sparse or users' own.

May import the ground floor, `losses`, `penalties`.
"""
