"""Every option once: its flag, default, check and help text.

In: keywords of the Python interface or values of the command line. Out: `Config`, one frozen dataclass for each stage;
a stage takes only its own. To add an option, add a field in `stages.py`: the command line, the keywords of the Python
interface (`keywords.py`) and docs/options.md are generated from the fields (`tools/options`).
"""
