"""The file of --table by itself: entries, sections, all or nothing, what it refuses; and what digests tell apart."""

from __future__ import annotations

import gc
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import Array, classifier, weight

from mixquant_onnx.errors import DataError, MixquantError, OptionError, OutputError, PlanError
from mixquant_onnx.model.files import as_loaded, load
from mixquant_onnx.planning import table_file
from mixquant_onnx.planning.digests import digest, digest_of_feeds, digest_of_files, digest_of_model, digest_of_source
from mixquant_onnx.planning.table_file import FORMAT, TableFile, check_table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.table"


def test_entries_are_there_again_by_kind_and_name(path: Path) -> None:
    made = TableFile(path)
    assert made.get("a", "x") is None and made.get_json("a", "x") is None and made.get_arrays("a", "x") is None
    made.put("a", "x", b"1")
    made.put("a", "y", b"2")
    made.put("b", "x", b"3")
    made.put("a", "x", b"4")
    made.put_json("json", "x", {"n": [1, None, "t"]})
    arrays: dict[str, Array] = {
        "codes": weight(3, 4).astype(np.uint8),
        "scale": weight(3, dtype=np.float16),
        "one": np.array(2.0),
    }
    made.put_arrays("arrays", "x", arrays)
    made.close()
    again = TableFile(path)
    assert [again.get(*key) for key in (("a", "x"), ("a", "y"), ("b", "x"))] == [b"4", b"2", b"3"]
    assert again.get_json("json", "x") == {"n": [1, None, "t"]}
    found = again.get_arrays("arrays", "x") or {}
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype and np.array_equal(found[name], value)


def test_sections_do_not_see_each_other(path: Path) -> None:
    root = TableFile(path)
    first, second = root.section("first"), root.section("second")
    first.put("a", "x", b"1")
    assert (root.get("a", "x"), second.get("a", "x"), first.get("a", "x")) == (None, None, b"1")
    assert TableFile(path).section("first").get("a", "x") == b"1"


def test_what_belongs_together_is_kept_together(path: Path) -> None:
    made = TableFile(path)
    made.put("a", "x", b"old")
    with pytest.raises(KeyboardInterrupt), made.section("s").together():
        made.put("a", "x", b"new")
        made.section("s").put("a", "y", b"1")
        raise KeyboardInterrupt
    assert (made.get("a", "x"), made.section("s").get("a", "y")) == (b"old", None)
    with made.together():
        made.put("a", "x", b"new")
        assert TableFile(path).get("a", "x") == b"old"
    assert TableFile(path).get("a", "x") == b"new"


def test_a_table_without_a_path_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    TableFile().put("a", "x", b"1")
    assert TableFile().get("a", "x") is None
    assert not list(tmp_path.iterdir())
    TableFile(Path(":memory:")).put("a", "x", b"1")
    assert [found.name for found in tmp_path.iterdir()] == [":memory:"]


def test_a_table_is_of_what_it_was_made_of(path: Path) -> None:
    TableFile(path, {"model": "1", "data": "2"}).put("a", "x", b"1")
    assert TableFile(path, {"model": "1", "data": "2"}).get("a", "x") == b"1"
    with pytest.raises(PlanError, match="another data"):
        TableFile(path, {"model": "1", "data": "3"})
    with pytest.raises(PlanError, match="another model"):
        TableFile(path, {"model": "2", "data": "2"})
    with pytest.raises(PlanError, match="another release"):
        TableFile(path, {"release": "1"})


def other_format(path: Path) -> None:
    TableFile(path).close()
    base = sqlite3.connect(path)
    base.execute(f"PRAGMA user_version = {FORMAT + 1}")
    base.close()


def other_program(path: Path) -> None:
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE entries (kind, name, value)")
    base.close()


def empty_of_another_program(path: Path) -> None:
    base = sqlite3.connect(path)
    base.execute("PRAGMA application_id = 77")
    base.close()


def cut_short(path: Path) -> None:
    made = TableFile(path)
    made.put("a", "x", bytes(100_000))
    made.close()
    path.write_bytes(path.read_bytes()[:3000])


def of_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    "make",
    [other_format, other_program, empty_of_another_program, cut_short, of_bytes(b"x"), of_bytes(b"{}" * 5000)],
    ids=["format", "program", "empty", "cut", "short", "long"],
)
def test_a_file_that_is_no_table_is_refused_and_stays_as_it_is(make: Callable[[Path], object], path: Path) -> None:
    make(path)
    before = path.read_bytes()
    with pytest.raises(PlanError, match="not a table of mixquant-onnx"):
        TableFile(path, {"model": "1"}).put("a", "x", b"1")
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_a_damaged_entry_is_named(path: Path) -> None:
    made = TableFile(path)
    made.put("a", "x", b"{")
    for read in (made.get_json, made.get_arrays):
        with pytest.raises(PlanError, match="'a' of 'x' is damaged"):
            read("a", "x")


def test_an_interrupted_making_leaves_a_file_that_is_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(TableFile, "put", interrupted)
        TableFile(path, {"model": "1"})
    TableFile(path, {"model": "2"}).put("a", "x", b"1")
    with pytest.raises(PlanError, match="another model"):
        TableFile(path, {"model": "1"})


def test_a_table_that_another_process_writes_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "_PATIENCE", 0.1)
    TableFile(path).put("a", "x", b"1")
    hold = "import sqlite3, sys; b = sqlite3.connect(sys.argv[1]); b.execute('BEGIN EXCLUSIVE'); print(1); input()"
    command = [sys.executable, "-uc", hold, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None and other.stdout.readline()
        with pytest.raises(OutputError, match="locked by another process"):
            TableFile(path)
        other.stdin.write("\n")
    assert TableFile(path).get("a", "x") == b"1"


def test_where_no_table_can_be_is_refused(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(error: type[MixquantError], told: str, wrong: Path, **others: Path | None) -> None:
        with pytest.raises(error, match=told):
            check_table(wrong, others)
        if not others:
            with pytest.raises(error, match=told):
                TableFile(wrong)

    refused(OutputError, "is a folder", tmp_path)
    refused(OutputError, "does not exist", tmp_path / "absent" / "table")
    os.mkfifo(tmp_path / "pipe")
    refused(OutputError, "is a device", tmp_path / "pipe")
    refused(OptionError, "is model", path, model=tmp_path / "absent" / ".." / path.name, other=None)
    check_table(path, {"model": tmp_path / "model", "output": None})
    path.touch()
    (tmp_path / "model").hardlink_to(path)
    refused(OptionError, "is model", path, model=tmp_path / "model")
    monkeypatch.setattr(os, "access", lambda found, _: found != path)
    refused(OutputError, "the table is not writable", path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(OutputError, "folder .* is not writable", path)


def test_digests_tell_apart_type_shape_order_and_borders() -> None:
    values = np.arange(4, dtype=np.float32)
    different: list[tuple[Any, ...]] = [
        (values,), (values.view(np.int32),), (values.reshape(2, 2),), (values.reshape(2, 2).T,),
        (values[:2], values[2:]), (values.tobytes(),), ("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), (), ("",),
        (np.float32(0) * values,),
    ]  # fmt: skip
    assert len({digest(*parts) for parts in different}) == len(different)
    assert digest(np.asfortranarray(values.reshape(2, 2))) == digest(values.reshape(2, 2))
    assert digest("ab") == digest(b"ab") and len(digest()) == 64


def test_digests_of_batches_tell_apart_names_and_cuts_and_not_the_order_of_names() -> None:
    x, y = weight(4, 3), weight(4, 3, seed=1)
    different: list[list[dict[str, Any]]] = [
        [{"x": x, "y": y}], [{"x": y, "y": x}], [{"x": x}, {"y": y}], [{"x": x}], [{"z": x}],
        [{"x": x[:2]}, {"x": x[2:]}], [{"x": [x, y]}], [{"x": [y, x]}], [{"x": x.astype(np.float64)}], [],
    ]  # fmt: skip
    assert len({digest_of_feeds(feeds) for feeds in different}) == len(different)
    assert digest_of_feeds([{"y": y, "x": x}]) == digest_of_feeds([{"x": x, "y": y}])


def test_digests_of_files_and_folders_are_of_their_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    first.write_bytes(b"ab")
    second.write_bytes(b"c")
    both, folder = digest_of_files([first, second]), digest_of_source(tmp_path)
    assert folder == both != digest_of_source(first) and digest_of_files([second, first]) != both
    (tmp_path / "notes.txt").write_text("no rows")
    assert digest_of_source(tmp_path) == folder != digest_of_source(tmp_path, texts=True)
    first.write_bytes(b"a")
    second.write_bytes(b"bc")
    assert digest_of_files([first, second]) != both
    memory = ({"x": [1.0, 2.0]},)
    assert digest_of_source(memory) == digest_of_source(({"x": np.array([1.0, 2.0])},)) != digest_of_source(None)
    with pytest.raises(DataError, match="absent"):
        digest_of_source(tmp_path / "absent.npz")


@pytest.mark.parametrize("external", [False, True])
def test_digests_of_models_are_of_their_files(external: bool, tmp_path: Path) -> None:
    path, model = tmp_path / "model.onnx", classifier()

    def saved(of: onnx.ModelProto) -> str:
        (tmp_path / "data").unlink(missing_ok=True)
        onnx.save(of, path, save_as_external_data=external, location="data", size_threshold=0)
        return digest_of_model(load(path))

    first, in_memory = saved(classifier()), digest_of_model(as_loaded(model))
    assert saved(classifier()) == first and digest_of_model(as_loaded(classifier())) == in_memory
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight(64, 64, seed=9), "v"))
    assert saved(model) != first and digest_of_model(as_loaded(model)) != in_memory


def test_a_table_is_closed_with_its_last_section(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    def close(connection: sqlite3.Connection) -> None:
        closed.append(True)
        sqlite3.Connection.close(connection)

    gc.collect()  # those of other tests
    monkeypatch.setattr(table_file._Connection, "close", close)
    table = TableFile()
    section = table.section("a")
    del table
    gc.collect()
    section.put("kind", "name", b"value")
    assert not closed and section.get("kind", "name") == b"value"
    del section
    gc.collect()  # a connection of sqlite3 is part of a circle
    assert closed == [True]


@pytest.mark.parametrize("value", [None, 5, "text", b"", b"{}", b"\x80\x04."])
def test_an_entry_that_is_damaged_is_not_taken_for_a_result(value: object, tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    TableFile(path).put_json("kind", "name", {"a": 1})
    assert TableFile(path).get_json("kind", "name") == {"a": 1}
    base = sqlite3.connect(path)
    base.execute("UPDATE entries SET value = ? WHERE kind = 'kind'", (value,))
    base.commit()
    base.close()
    with pytest.raises(PlanError, match="its entry 'kind' of 'name' is damaged"):
        TableFile(path).get("kind", "name")
