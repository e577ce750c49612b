"""What is measured once, kept: entries by kind and name in an SQLite file, which survives an interrupted run."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixquant_onnx.errors import OutputError, PlanError
from mixquant_onnx.numerics.arrays import FloatArray

FORMAT = 1
"""Format of the file; incremented by incompatible changes."""

_APPLICATION = 0x6D717462
"""Marks the file as ours (SQLite's application_id); the value does not matter."""

_ADVICE = "give another file to --table, or delete this one"


class TableFile:
    """Entries of bytes by kind and name; each is on disk as soon as it is put.

    Args:
        path: The file; None for a temporary one, which is deleted at the end. It is written to disk only where it is
            large.
        made_of: What all entries depend on: a digest by the name that messages show, such as "model".

    Raises:
        PlanError: The file is no table, of another format, or made of something else.
        OutputError: It cannot be opened or written.
    """

    def __init__(self, path: Path | None = None, made_of: Mapping[str, str] | None = None) -> None:
        self._path, self._section = path, ""
        with self._errors():
            self._base = sqlite3.connect("" if path is None else path, isolation_level=None)
            self._execute("PRAGMA synchronous = OFF")
            if self._execute("SELECT count(*) FROM sqlite_master")[0][0] == 0:
                self._execute(f"PRAGMA application_id = {_APPLICATION}")
                self._execute(f"PRAGMA user_version = {FORMAT}")
                self._execute("CREATE TABLE entries (kind, name, value, PRIMARY KEY (kind, name)) WITHOUT ROWID")
                for part, found in (made_of or {}).items():
                    self.put("made of", part, found.encode())
        marks = self._execute("PRAGMA application_id")[0][0], self._execute("PRAGMA user_version")[0][0]
        if marks != (_APPLICATION, FORMAT):
            raise PlanError(f"{path}: not a table of mixquant-onnx (format {FORMAT}); {_ADVICE}")
        self._check(made_of or {})

    def _check(self, made_of: Mapping[str, str]) -> None:
        for part, found in made_of.items():
            if self.get("made of", part) != found.encode():
                raise PlanError(f"{self._path}: the table was made with another {part}; {_ADVICE}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OutputError(f"{self._path}: the table cannot be opened or written ({error}); check it") from error
        except sqlite3.DatabaseError as error:
            raise PlanError(f"{self._path}: not a table of mixquant-onnx; {_ADVICE}") from error

    def _execute(self, command: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._errors():
            return self._base.execute(command, values).fetchall()

    def section(self, name: str) -> TableFile:
        """The same file, where all entries belong to a section: those of others are not seen.

        Args:
            name: Name of the section, such as a digest of the rows that were used.

        Returns:
            A view; closing one closes all.
        """
        other = object.__new__(TableFile)
        other._base, other._path, other._section = self._base, self._path, f"{name}/"
        return other

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Put several entries at once: all of them are kept, or none."""
        self._execute("BEGIN")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    def get(self, kind: str, name: str) -> bytes | None:
        """An entry; None where there is none."""
        rows = self._execute("SELECT value FROM entries WHERE kind = ? AND name = ?", (kind, self._section + name))
        return bytes(rows[0][0]) if rows else None

    def put(self, kind: str, name: str, value: bytes) -> None:
        """Keep an entry, in place of one of the same kind and name."""
        self._execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (kind, self._section + name, value))

    def get_json(self, kind: str, name: str) -> Any:
        """An entry that `put_json` kept; None where there is none."""
        found = self.get(kind, name)
        return None if found is None else json.loads(found)

    def put_json(self, kind: str, name: str, value: Any) -> None:
        """Keep what `json` can write."""
        self.put(kind, name, json.dumps(value).encode())

    def get_arrays(self, kind: str, name: str) -> dict[str, FloatArray] | None:
        """An entry that `put_arrays` kept; None where there is none."""
        found = self.get(kind, name)
        if found is None:
            return None
        with np.load(io.BytesIO(found), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def put_arrays(self, kind: str, name: str, arrays: Mapping[str, FloatArray]) -> None:
        """Keep arrays by name."""
        made = io.BytesIO()
        np.savez(made, allow_pickle=False, **{key: np.asarray(value) for key, value in arrays.items()})
        self.put(kind, name, made.getvalue())

    def close(self) -> None:
        """Close the file."""
        self._base.close()
