"""What is measured once, kept: entries by kind and name in an SQLite file, which survives an interrupted run."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sqlite3
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixquant_onnx.errors import OptionError, OutputError, PlanError, writing
from mixquant_onnx.model.files import check_writable
from mixquant_onnx.numerics.arrays import FloatArray

FORMAT = 2
"""Format of the file; incremented by incompatible changes."""

_SEAL = 16
"""Bytes of the digest of an entry."""

_APPLICATION = 0x6D717462
"""Marks the file as ours (SQLite's application_id); the value does not matter."""

_START = b"SQLite format 3\x00"
"""The first bytes of every file of SQLite."""

_PATIENCE = 5.0
"""Seconds for which another process may keep the file locked: it does so while it writes an entry."""

_ADVICE = "give another file to --table, or delete this one"


class _Connection(sqlite3.Connection):
    """Closed when nothing refers to it any more: a table and its sections share one, and any may be the last."""

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # it was not opened, or by another thread
            self.close()


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
        if path is not None:
            check_table(path)
            _check_start(path)
        with self._errors():
            # An absolute path, as SQLite gives names such as ":memory:" a meaning of their own.
            name = "" if path is None else path.absolute()
            self._base = sqlite3.connect(name, timeout=_PATIENCE, isolation_level=None, factory=_Connection)
        try:
            self._execute("PRAGMA synchronous = OFF")
            marks = self._marks()
            if marks == (0, 0) and self._execute("SELECT count(*) FROM sqlite_master")[0][0] == 0:
                self._make(made_of or {})
                marks = self._marks()
            if marks != (_APPLICATION, FORMAT):
                raise PlanError(f"{path}: not a table of mixquant-onnx (format {FORMAT}); {_ADVICE}")
            self._check(made_of or {})
        except BaseException:
            self._base.close()
            raise

    def _marks(self) -> tuple[int, int]:
        return self._execute("PRAGMA application_id")[0][0], self._execute("PRAGMA user_version")[0][0]

    def _make(self, made_of: Mapping[str, str]) -> None:
        with self.together():
            self._execute(f"PRAGMA application_id = {_APPLICATION}")
            self._execute(f"PRAGMA user_version = {FORMAT}")
            self._execute("CREATE TABLE entries (kind, name, value, PRIMARY KEY (kind, name)) WITHOUT ROWID")
            for part, found in made_of.items():
                self.put("made of", part, found.encode())

    def _check(self, made_of: Mapping[str, str]) -> None:
        for part, found in made_of.items():
            if self.get("made of", part) != found.encode():
                raise PlanError(f"{self._path}: the table was made with another {part}; {_ADVICE}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise OutputError(
                    f"{self._path}: the table is locked by another process; wait for it, or give another file"
                ) from error
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
            self._execute("COMMIT")
        except BaseException:
            # SQLite itself rolls back after some errors, such as a full disk.
            if self._base.in_transaction:
                self._execute("ROLLBACK")
            raise

    def get(self, kind: str, name: str) -> bytes | None:
        """An entry; None where there is none."""
        rows = self._execute("SELECT value FROM entries WHERE kind = ? AND name = ?", (kind, self._section + name))
        if not rows:
            return None
        stored = rows[0][0]
        if not isinstance(stored, bytes) or stored[:_SEAL] != self._seal(kind, name, stored[_SEAL:]):
            raise PlanError(f"{self._path}: its entry '{kind}' of '{name}' is damaged; {_ADVICE}")
        return stored[_SEAL:]

    def put(self, kind: str, name: str, value: bytes) -> None:
        """Keep an entry, in place of one of the same kind and name."""
        sealed = self._seal(kind, name, value) + value
        self._execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", (kind, self._section + name, sealed))

    def _seal(self, kind: str, name: str, value: bytes) -> bytes:
        """A digest that stands before a value, so that damage is not taken for a result."""
        named = f"{kind}\0{self._section}{name}\0".encode(errors="surrogatepass")
        return hashlib.blake2b(named + value, digest_size=_SEAL).digest()

    def get_json(self, kind: str, name: str) -> Any:
        """An entry that `put_json` kept; None where there is none."""
        found = self.get(kind, name)
        if found is None:
            return None
        with self._damage(kind, name):
            return json.loads(found)

    def put_json(self, kind: str, name: str, value: Any) -> None:
        """Keep what `json` can write."""
        self.put(kind, name, json.dumps(value).encode())

    def get_arrays(self, kind: str, name: str) -> dict[str, FloatArray] | None:
        """An entry that `put_arrays` kept; None where there is none."""
        found = self.get(kind, name)
        if found is None:
            return None
        with self._damage(kind, name), np.load(io.BytesIO(found), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    @contextlib.contextmanager
    def _damage(self, kind: str, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise PlanError(f"{self._path}: its entry '{kind}' of '{name}' is damaged; {_ADVICE}") from error

    def put_arrays(self, kind: str, name: str, arrays: Mapping[str, FloatArray]) -> None:
        """Keep arrays by name."""
        made = io.BytesIO()
        np.savez(made, allow_pickle=False, **{key: np.asarray(value) for key, value in arrays.items()})
        self.put(kind, name, made.getvalue())

    def close(self) -> None:
        """Close the file."""
        self._base.close()


def check_table(path: Path, others: Mapping[str, Path | None] | None = None) -> None:
    """Check early that a file can be a table, without opening it.

    Args:
        path: The file.
        others: Further files of the run by what messages call them; None for those that there are not.

    Raises:
        OptionError: It is one of `others`.
        OutputError: It cannot be written.
    """
    for what, other in (others or {}).items():
        if other is not None and _same_file(path, other):
            raise OptionError(f"--table {path} is {what}; give the table a file of its own")
    check_writable(path)
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"{path}: the table is not writable; check its permissions, or give another file to --table")


def _check_start(path: Path) -> None:
    """Raise PlanError for a file that does not begin as SQLite's do: SQLite itself writes over a few bytes of text."""
    with writing(path):
        start = b""
        if path.exists():
            with path.open("rb") as stream:
                start = stream.read(len(_START))
    if start not in (b"", _START):
        raise PlanError(f"{path}: not a table of mixquant-onnx; {_ADVICE}")


def _same_file(path: Path, other: Path) -> bool:
    """Whether both name one file, which need not exist."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()
