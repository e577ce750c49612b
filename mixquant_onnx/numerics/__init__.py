"""Arrays in, numbers out, with NumPy alone: granularity, integer codes, rounding errors, distances between outputs.

`granularity` lays a tensor out in rows that share a scale, `integers` and `scheme` define what codes mean, `metrics`
compares outputs. A new distance between outputs goes into `metrics.py`, a new granularity into `granularity.py`.
"""
