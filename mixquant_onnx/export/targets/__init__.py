"""Runtimes that files are written for.

In: a weight, its scheme and the model around it. Out: the storages it may take, opsets, and the oldest release.
To add a target, write `x.py` with the functions of `target.Target`, and give it a row in `table.py`.
"""
