"""Quantization of weights: codes, scales and zero points.

In: float weights, a `Scheme` for each, and statistics of the layers' inputs. Out: a `QuantizedTensor` each. To add a
method, add a file in `ranges/` or `rounding/` and a row in `methods.py`.
"""
