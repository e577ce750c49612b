"""Inputs of the kind that a model reads, where the user gives none.

In: a float model. Out: `Data` of origin `proxy`, or None where nothing that was tried runs. Another kind of input is
one more file with a function that fills arrays, and one row in `roles.py` that tells when it is meant.
"""
