"""Rows of data: read from files, found out by running the model, and divided once.

In: an .npz file, a folder of them, or feeds in memory. Out: `Data`, and of it a `DataSplit` into rows to calibrate on,
rows to select by and rows to evaluate on. Another file format is one more reader in `files.py`.
"""
