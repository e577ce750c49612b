"""Scales and zero points of rows of weights.

In: rows [N, M], N groups of weights that share a scale. Out: scale as stored and zero point of each row. To add a range
method, add a file with `fit(rows, bits, symmetric)`, and a row in `quantization/methods.py`.
"""
