"""Which scheme each weight gets, before anything is changed.

In: a loaded model, options of the search and of the budget, rows of data. Out: `Planned`. For one more allocator add a
file in `allocators/`, for one more sensitivity a file in `sensitivity/` and a row in its table.
"""
