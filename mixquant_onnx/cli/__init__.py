"""The command line: `quantize` (also without its name), `inspect`, `sweep`, `compare`, `diff`, `completion`.

In: arguments. Out: files, a report on stdout, one-line errors on stderr, an exit code. To add a command, add a file
here and a row in `commands.COMMANDS`; its options are those of `config/`.
"""
