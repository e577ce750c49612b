"""Proxy inputs: generated inputs of the kind that a model reads, where the user gives none.

In: a float model. Out: `Data` of origin `proxy`, or None where the model runs on none of the attempts. To add a kind of
input, add a file with a function that fills arrays, and a row in `roles.py` that recognizes it.
"""
