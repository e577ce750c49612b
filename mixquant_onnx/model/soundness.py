"""Whether a model can be read: sizes of its tensors, circles, and what onnx's checker says where something failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from graphlib import CycleError, TopologicalSorter
from typing import Any, ParamSpec, TypeVar

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from mixquant_onnx.errors import MixquantError, ModelError, first_line
from mixquant_onnx.model.external import is_large
from mixquant_onnx.model.scopes import FunctionKey, Scope, function_key, subgraphs, walk
from mixquant_onnx.model.tensor_data import with_data

_MOST_CALLS = 100_000
"""Calls of functions in a model, those inside of functions counted at each call: more than any exporter writes."""
_WITH_OUTPUTS = ("", "ai.onnx", "com.microsoft")
"""Domains all of whose operators give something out."""
_DEEPEST = 100
"""Functions that call one another, one inside of the other."""


def check_sound(model: ModelProto, name: str) -> None:
    """Check what every later step relies on.

    Args:
        model: The model.
        name: What to call it in the message.

    Raises:
        ModelError: A tensor is truncated, or of a type that this onnx does not know; a name is not UTF-8; values or
            functions depend on themselves; or functions call each other too often.
    """
    scopes = walk(model)
    for scope in scopes:
        if any(isinstance(text, bytes) for text in _texts(scope)):
            raise ModelError(f"{name}: holds names that are not UTF-8; export or copy the model again")
        if any(not node.output and node.domain in _WITH_OUTPUTS for node in scope.body.node):
            raise ModelError(f"{name}: a node gives nothing out; export the model again")
        for tensor in _tensors(scope):
            _check_tensor(tensor, name)
        if _circular(scope):
            raise ModelError(f"{name}: a value depends on itself; export the model again")
    _check_calls(model, scopes, name)


def _texts(scope: Scope) -> Iterator[Any]:
    """Names in a scope; protobuf gives those that are not UTF-8 as bytes."""
    for node in scope.body.node:
        yield from (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    yield scope.body.name
    if isinstance(scope.body, GraphProto):
        for value in (*scope.body.initializer, *scope.body.input, *scope.body.output, *scope.body.value_info):
            yield value.name
    else:
        yield from (scope.body.domain, *scope.body.input, *scope.body.output)


def _tensors(scope: Scope) -> Iterator[TensorProto]:
    if isinstance(scope.body, GraphProto):
        yield from scope.body.initializer
    for node in scope.body.node:
        if node.op_type == "Constant":
            yield from (a.t for a in node.attribute if a.HasField("t"))


def _check_tensor(tensor: TensorProto, name: str) -> None:
    """Raise ModelError where a tensor does not hold as many values as its shape requires."""
    if tensor.data_type == TensorProto.STRING or tensor.data_location == TensorProto.EXTERNAL:
        return
    try:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    except (KeyError, TypeError) as error:
        raise ModelError(f"{name}: tensor '{tensor.name}' is of a type that this onnx does not know") from error
    wanted = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        stored, wanted = len(tensor.raw_data), wanted * width
    else:
        stored = len(getattr(tensor, field))
    packed = tensor.data_type in _OTHER_COUNTS
    if min(tensor.dims, default=0) < 0 or (stored != wanted and not packed):
        raise ModelError(f"{name}: tensor '{tensor.name}' is cut short; export or copy the model again")


_OTHER_COUNTS = {TensorProto.COMPLEX64, TensorProto.COMPLEX128, *range(TensorProto.UINT4, 64)}
"""Types of which a byte or a field does not hold one value."""


def _circular(scope: Scope) -> bool:
    """Whether a value of a scope depends on itself. ONNX Runtime takes nodes in any order that has no circle."""
    later = {output for node in scope.body.node for output in node.output}
    for node in scope.body.node:
        if later.intersection(_reads(node)):
            break
        later.difference_update(node.output)
    else:
        return False
    producers = {output: k for k, node in enumerate(scope.body.node) for output in node.output if output}
    graph = {k: {producers[r] for r in _reads(node) if r in producers} for k, node in enumerate(scope.body.node)}
    return _order(graph) is None


def _reads(node: NodeProto) -> set[str]:
    """Names that a node reads of its own scope: its inputs, and what its subgraphs do not define themselves."""
    names = {name for name in node.input if name}
    for _, graph in subgraphs(node):
        used = {value.name for value in graph.output}.union(*(_reads(inner) for inner in graph.node))
        used.difference_update(*(inner.output for inner in graph.node), (value.name for value in graph.input))
        names |= used.difference(tensor.name for tensor in graph.initializer)
    return names


def _order(graph: dict[Any, set[Any]]) -> list[Any] | None:
    """What others depend on first; None where there is a circle."""
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError:
        return None


def _check_calls(model: ModelProto, scopes: list[Scope], name: str) -> None:
    """Raise ModelError where functions call themselves, or more than `_MOST_CALLS` or `_DEEPEST`."""
    known = {function_key(function) for function in model.functions}
    called: dict[FunctionKey, list[FunctionKey]] = {key: [] for key in known}
    for scope in scopes:
        root = scope
        while root.parent is not None:
            root = root.parent
        own = function_key(root.body) if isinstance(root.body, FunctionProto) else _MAIN
        called.setdefault(own, []).extend(key for node in scope.body.node if (key := function_key(node)) in known)
    order = _order({key: set(inner) for key, inner in called.items()})
    if order is None:
        raise ModelError(f"{name}: a function of the model calls itself; export the model again")
    count, depth = dict[FunctionKey, int](), dict[FunctionKey, int]()
    for key in order:
        count[key] = 1 + sum(count[inner] for inner in called[key])
        depth[key] = 1 + max((depth[inner] for inner in called[key]), default=0)
    if max(count.values()) > _MOST_CALLS or max(depth.values()) > _DEEPEST:
        raise ModelError(f"{name}: its functions call each other too often or too deep; inline them (onnx.inliner)")


_MAIN = ("", "", "the main graph")

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def blames_model(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """`function`, where errors that nobody foresaw are the model's if its first argument holds one that is not valid.

    Args:
        function: Its first argument is a `Loaded`, called `loaded`.

    Returns:
        The same, wrapped.
    """

    @wraps(function)
    def wrapped(*given: Given.args, **more: Given.kwargs) -> Returned:
        with blamed(given[0] if given else more["loaded"]):
            return function(*given, **more)

    return wrapped


@contextmanager
def blamed(*loaded: Any) -> Iterator[None]:
    """Turn errors that nobody foresaw into ModelErrors of the first of some models that is not valid ONNX.

    Args:
        *loaded: The models, `Loaded`.

    Raises:
        ModelError: The model is not valid; the message says why.
    """
    try:
        yield
    except (MixquantError, MemoryError, OSError):
        raise
    except Exception as error:
        for one in loaded:
            reason = invalid(one.float_model)
            if reason is not None:
                name = one.path or "the model"
                raise ModelError(f"{name}: is not valid ONNX ({reason}); export it again") from error
        raise


def invalid(model: ModelProto) -> str | None:
    """What onnx's checker finds wrong with a model.

    Args:
        model: The model.

    Returns:
        Its first line; None where it finds nothing, or the model is too large for it.
    """
    if is_large(model):
        return None
    try:
        onnx.checker.check_model(with_data(model), full_check=True)
    except Exception as error:  # ValidationError, InferenceError, and others of its C++ code
        return first_line(error, 200)
    return None
