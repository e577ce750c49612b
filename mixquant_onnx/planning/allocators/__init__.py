"""A table of candidates in, one candidate for each weight out: pure functions.

`qem` and `safe` decide weight by weight by a limit on the error; `knapsack` and `charged` spend one budget over all.
A new allocator is a file here, named in planning/allocation.py.
"""
