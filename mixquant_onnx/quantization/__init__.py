"""Weights and their schemes -> codes, scales and zero points.

In: float weights, a `Scheme` for each, and what is known of the layers' inputs. Out: `Quantized` tensors.
One more method is a file in `ranges/` or `rounding/` and a row in `methods.py`.
"""
