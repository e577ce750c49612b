"""Reports: the summary of a run as plain data (--json), and that data as text, as a page and as figures.

In: `inputs.Run` (a plan, and the result where it was executed) or `inputs.Sweep`. Out: `summary.Summary`, or text. To
add a section, add a file in `sections/` and a row in the table in `sections/__init__.py`.
"""
