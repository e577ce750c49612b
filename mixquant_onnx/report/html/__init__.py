"""The report as one self-contained HTML file. In: the summary of a run (--json). Out: text.

Needs the extra `report` (plotly, jinja2). To add a figure, add a function to `figures` and its place to `page.html`.
"""
