"""In: a float model and the histograms of its values. Out: which values are rounded to 8 bits, and their grids.

One more way to find a range: a function in `ranges` and a row in its table. One more operator: a row in `placement`.
"""
