"""Pure functions from errors and costs to the scheme of each weight.

In: an `ErrorTable`, or choices with costs and bytes. Out: a scheme for each weight. A rule that considers each weight
alone is a file and a row in `rules.py`; budgets over the whole model use `knapsack.py`.
"""
