"""Arrays in, numbers out, with NumPy alone: granularity, integer codes, errors of rounding, distance of outputs.

`granularity` lays a tensor out in rows that share a scale, `integers` and `scheme` say what codes mean, `metrics`
compares outputs. A measure of the distance between outputs goes into `metrics.py`, a granularity into `granularity.py`.
"""
