"""Runtimes that files are written for.

In: a weight, its scheme and the model around it. Out: its possible storages, opsets, and the oldest release. To add a
target, write `x.py` with the functions of `target.Target`, and add a row in `table.py`.
"""
