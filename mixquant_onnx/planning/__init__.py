"""The scheme of each weight, decided before anything is changed.

In: a loaded model, options of the search and of the budget, samples. Out: `Planned`. To add an allocator, add a file in
`allocators/`; to add a sensitivity, a file in `sensitivity/` and a row in its table.
"""
