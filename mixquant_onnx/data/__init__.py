"""Samples of data: read from files or generated, checked against the model, and split once.

In: an .npz file, a folder of them, or batches in memory. Out: `Data`, and from it a `DataSplit` into samples for
calibration, for selection and for evaluation. To add a file format, add a reader in `files.py`.
"""
