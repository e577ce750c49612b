"""What a run shows: its summary as plain data (--json), and that data as text in a terminal.

In: `inputs.Run` (a plan, and the result where it was executed) or `inputs.Sweep`. Out: `summary.Summary`, or text.
A new section is one file in sections/ and one row in the table in sections/__init__.py.
"""
