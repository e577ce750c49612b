"""Values inside a model, computed part by part in the order of the graph, without running a node twice.

Values that later parts need are stored, in memory or on the disk; only the nodes between are run. Where the disk is
full, more of the graph is run again.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper

from mixquant_onnx.model.dependencies import reads
from mixquant_onnx.numerics.arrays import FloatArray
from mixquant_onnx.runtime.memory import release
from mixquant_onnx.runtime.session import Feed, RuntimeFailure, Session
from mixquant_onnx.runtime.value_store import StoredValue, ValueStore

MOST_BYTES = 64 << 20
"""Most bytes in memory of the stored values of one executor and its forks (64 MiB), beyond which they are on the disk.
128 MiB take 130 MB more on PP-OCRv4 (there are two executors, and freed memory is not all reused), and as much time.
"""

_Known = dict[str, FloatArray | StoredValue]


class IncrementalExecutor:
    """Reads values of a model's main graph part by part; weights behind the values read so far may be replaced.

    Args:
        model: The model; referenced, and read again at each call.
        names: All values that will be asked for, in the order of the graph.
        feeds: Batches: inputs of the model by name, for each run.
        volatile: Values inside of which weights may still change (outputs of branches): the nodes that compute them,
            and all behind, run each time.
        outputs: Values that will be asked for at any time, and are stored from where they are computed on.
    """

    def __init__(
        self, model: ModelProto, names: Sequence[str], feeds: Sequence[Feed], volatile: frozenset[str] = frozenset(),
        outputs: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._model = model
        nodes = model.graph.node
        self._reads = [reads(node) for node in nodes]
        self._makers = {output: k for k, node in enumerate(nodes) for output in node.output if output}
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._store = ValueStore(MOST_BYTES)
        self._known: list[_Known] = [dict(feed) for feed in feeds]
        self._given = {name for feed in feeds for name in feed}
        self._passing = self._depends_on(set(self._given))
        unstable = self._depends_on({o for v in volatile if v in self._makers for o in nodes[self._makers[v]].output})
        unstable |= {self._makers[v] for v in volatile if v in self._makers}
        self._keepable = self._passing - unstable
        self._done: set[int] = set()
        self._outputs = set(outputs)
        self._useful = self._ancestors([*names, *outputs], set())
        makers = [self._makers.get(name) for name in names]
        self._together = {name for name, maker in zip(names, makers, strict=True) if makers.count(maker) > 1}

    def fork(self) -> IncrementalExecutor:
        """A second executor in the same state, with the same store; advancing one does not affect the other."""
        other = copy.copy(self)
        other._known, other._done = list(self._known), set(self._done)
        return other

    def _depends_on(self, names: set[str]) -> set[int]:
        """Nodes that read one of `names`, or what those compute."""
        found, known = set(), set(names)
        for k, node in enumerate(self._model.graph.node):
            if known & self._reads[k]:
                found.add(k)
                known.update(node.output)
        return found

    def _ancestors(self, names: Sequence[str], known: set[str]) -> set[int]:
        """Nodes that must run for `names` where the values `known` are there."""
        found: set[int] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            maker = self._makers.get(name)
            if name in known or maker is None or maker in found:
                continue
            found.add(maker)
            waiting += self._reads[maker]
        return found

    def values(self, names: Sequence[str]) -> Iterator[dict[str, FloatArray]]:
        """Compute values, and store what later ones need.

        Args:
            names: Some of the names that the executor was made for.

        Yields:
            For each batch the values by name.

        Raises:
            RuntimeFailure: ONNX Runtime does not load or run this part of the model.
        """
        yield from self._passed(names, names)

    def advance(self, names: Sequence[str]) -> None:
        """Compute values without returning them, so that later calls of `values` start from there.

        Stops without an error where the model does not run.

        Args:
            names: Some of the names that the executor was made for.
        """
        with contextlib.suppress(RuntimeFailure):
            for _ in self._passed(names, ()) if names else ():
                pass

    def _passed(self, names: Sequence[str], given: Sequence[str]) -> Iterator[dict[str, FloatArray]]:
        """Compute `names`, and yield those in `given`, for each batch; at the end the executor is behind them."""
        if not self._known:
            return
        known = set(self._known[0])
        segment = self._ancestors(names, known)
        done = self._done | (segment & self._keepable)
        later = {name for k in self._useful - done for name in self._reads[k]} | set(names)
        later |= self._together | self._outputs
        made = {o for k in segment & self._keepable for o in self._model.graph.node[k].output if o}
        fresh = made & later
        wanted = list(dict.fromkeys([*(n for n in names if n not in known), *sorted(fresh)]))
        session = self._session(segment, wanted) if wanted else None
        kept: list[_Known] | None = []
        for feed in self._known:
            found = {}
            read = {name: _read(feed[name]) for name in {*given, *(session.inputs if session else ())} & known}
            if session is not None:
                inputs = {name: read[name] for name in session.inputs}
                found = dict(zip(wanted, session.run(inputs, wanted), strict=True))
            yield {name: found[name] if name in found else read[name] for name in given}
            left = None if kept is None else self._left(feed, found, later, fresh)
            kept = None if kept is None or left is None else [*kept, left]
        if kept is not None:
            self._known, self._done = kept, done
        release()

    def _left(self, feed: _Known, found: dict[str, FloatArray], later: set[str], fresh: set[str]) -> _Known | None:
        """The values of one batch that are needed later; None where one cannot be stored."""
        left = {name: value for name, value in feed.items() if name in later}
        try:
            for name in fresh:
                if not isinstance(found[name], np.ndarray):
                    return None
                left[name] = self._store.keep(found[name])
        except OSError:
            return None
        return left

    def _session(self, segment: set[int], outputs: list[str]) -> Session:
        """The nodes of `segment` as a model of its own, with known values as its inputs."""
        graph = self._model.graph
        nodes: list[NodeProto] = [graph.node[k] for k in sorted(segment)]
        read = {name for k in segment for name in self._reads[k]}
        made = {output for node in nodes for output in node.output}
        part = ModelProto(ir_version=self._model.ir_version)
        part.opset_import.extend(self._model.opset_import)
        part.functions.extend(self._model.functions)
        part.graph.name = graph.name or "part"
        part.graph.node.extend(nodes)
        for name in sorted(read - made):
            value = self._known[0].get(name)
            if isinstance(value, list):
                part.graph.input.extend(given for given in graph.input if given.name == name)
            elif value is not None:
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                part.graph.input.append(helper.make_tensor_value_info(name, kind, [None] * value.ndim))
            elif name in self._stored:
                part.graph.initializer.append(self._stored[name])
        part.graph.sparse_initializer.extend(s for s in graph.sparse_initializer if s.values.name in read)
        for name in outputs:
            part.graph.output.append(helper.make_empty_tensor_value_info(name))
        return Session(part)


def _read(value: FloatArray | StoredValue) -> FloatArray:
    return value.read() if isinstance(value, StoredValue) else value
