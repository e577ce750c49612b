"""Sensitivities: what a candidate of a weight costs the network, by which a budget is spent.

In: a `Measurement` (the errors of all candidates, the model, samples). Out: a cost for every candidate of every weight.
To add a sensitivity, add a file with a function `measure` and a row in `table.py`.
"""
