"""Accuracy targets: the smallest file that loses no more than the user allows.

In: plans of several sensitivities, a function that runs a plan, and the target (`AccuracyOptions`). Out: the smallest
file that meets it. To evaluate files in another way, add a file like `external_metric.py` and a branch in
`search._judge`.
"""
