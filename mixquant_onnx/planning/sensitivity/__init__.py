"""What a candidate of a weight costs the network: the sensitivities that a budget is spent by.

In: a `Measurement` (the errors of all candidates, the model, rows). Out: a cost for every candidate of every weight.
For one more sensitivity add a file with a function `measure` and a row in `table.py`.
"""
