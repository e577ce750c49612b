"""Accuracy targets: the smallest file that loses no more than the user allows.

In: plans of several sensitivities, a function that runs a plan, and what is to be kept (`AccuracyOptions`). Out: the
smallest file that passes. To judge files in another way, add a file like `external_metric.py` and a branch in
`search._judge`.
"""
