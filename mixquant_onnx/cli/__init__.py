"""The command line: `quantize` (also without its name), `inspect` and `sweep`.

In: arguments. Out: files, a report on stdout, errors in one line on stderr, an exit code. For one more command add a
file here and a row in `main.COMMANDS`; its options are those of config/.
"""
