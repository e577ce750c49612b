"""Small decoders with a cache of keys and values, in the forms in which exporters write them. Their weights are random.

All forms of one seed compute the same. `plain`: operators of ONNX, as Hugging Face's exporters write them; `query`:
GroupQueryAttention with a mask, as onnxruntime-genai writes it; `lengths`: the same, which reads lengths in place of
the mask; `standard`: Attention, RotaryEmbedding and RMSNormalization of opset 23; `merged`: `plain` with and without a
cache under an If, the weights outside; `copied`: the same with the weights in both branches.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Form = Literal["plain", "query", "lengths", "standard", "merged", "copied"]
Head = Literal["apart", "transposed", "gemm"]
"""The head: weights of its own; the embedding behind a Transpose; the embedding in a Gemm with transB."""

_RELEASE = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
_EVERY: tuple[Form, ...] = ("plain", "query", "lengths", "standard", "merged", "copied")
FORMS = tuple(form for form in _EVERY if form != "standard" or _RELEASE >= (1, 24))
"""The forms that the installed onnxruntime runs."""
HEADS_OF: tuple[Head, ...] = ("apart", "transposed", "gemm")

VOCABULARY, WIDTH, HIDDEN, LAYERS = 192, 64, 96, 2
HEADS, KV_HEADS, HEAD = 4, 2, 16
LONGEST = 128
_LOWEST = -1e9
Array = NDArray[Any]


def cache_names(side: str) -> list[str]:
    """Names of the cache's tensors; `side` is past_key_values or present."""
    return [f"{side}.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]


def decoder(form: Form = "plain", head: Head = "apart", seed: int = 0) -> ModelProto:
    """A decoder with random weights."""
    weights = _weights(head, seed)
    if form in ("merged", "copied"):
        graph = _merged(head, weights, copied=form == "copied")
    else:
        made = _Body(form, head, cached=True)
        graph = helper.make_graph(
            made.nodes, "decoder", _inputs(form), _outputs(""), [*_stored(weights), *_stored(made.constants)]
        )
    imports = [helper.make_opsetid("", 23 if form == "standard" else 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def step(form: Form, ids: Array, cache: dict[str, Array] | None = None) -> dict[str, Array]:
    """The inputs of a model for new tokens behind a cache, which is given under the names of its inputs."""
    batch, new = ids.shape
    past = 0 if cache is None else next(iter(cache.values())).shape[2]
    empty = np.zeros((batch, KV_HEADS, 0, HEAD), np.float32)
    feed = {"input_ids": ids, **(cache or dict.fromkeys(cache_names("past_key_values"), empty))}
    if form == "lengths":
        feed["seqlens_k"] = np.full(batch, past + new - 1, np.int32)
        feed["total_sequence_length"] = np.array(past + new, np.int32)
        return feed
    feed["attention_mask"] = np.ones((batch, past + new), np.int64)
    if form != "query":
        feed["position_ids"] = np.broadcast_to(np.arange(past, past + new), (batch, new)).copy()
    if form in ("merged", "copied"):
        feed["use_cache_branch"] = np.array([past > 0])
    return feed


def _weights(head: Head, seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)

    def drawn(*shape: int) -> Array:
        return np.asarray(random.standard_normal(shape) * shape[0] ** -0.5, np.float32)

    made = {"embed": drawn(VOCABULARY, WIDTH) * 4}
    for layer in range(LAYERS):
        kinds = {"q": WIDTH, "k": KV_HEADS * HEAD, "v": KV_HEADS * HEAD, "o": WIDTH, "gate": HIDDEN, "up": HIDDEN}
        made |= {f"l{layer}.{kind}": drawn(WIDTH, size) for kind, size in kinds.items()}
        made[f"l{layer}.down"] = drawn(HIDDEN, WIDTH)
    made["norm"] = np.linspace(0.5, 1.5, WIDTH, dtype=np.float32)
    return {**made, "head": drawn(WIDTH, VOCABULARY)} if head == "apart" else made


def _stored(values: dict[str, Array]) -> list[TensorProto]:
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def _inputs(form: Form) -> list[ValueInfoProto]:
    total = "past_sequence_length + sequence_length"
    kinds: list[tuple[str, int, list[int | str]]] = [
        ("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])
    ]
    if form == "lengths":
        kinds += [("seqlens_k", TensorProto.INT32, ["batch_size"]), ("total_sequence_length", TensorProto.INT32, [])]
    else:
        kinds.append(("attention_mask", TensorProto.INT64, ["batch_size", total]))
    if form not in ("query", "lengths"):
        kinds.append(("position_ids", TensorProto.INT64, ["batch_size", "sequence_length"]))
    for name in cache_names("past_key_values"):
        kinds.append((name, TensorProto.FLOAT, ["batch_size", KV_HEADS, "past_sequence_length", HEAD]))
    if form in ("merged", "copied"):
        kinds.append(("use_cache_branch", TensorProto.BOOL, [1]))
    return [helper.make_tensor_value_info(*one) for one in kinds]


def _outputs(suffix: str) -> list[ValueInfoProto]:
    total = "past_sequence_length + sequence_length"
    shapes: dict[str, list[int | str]] = {"logits": ["batch_size", "sequence_length", VOCABULARY]}
    shapes |= {name: ["batch_size", KV_HEADS, total, HEAD] for name in cache_names("present")}
    return [helper.make_tensor_value_info(name + suffix, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def _merged(head: Head, weights: dict[str, Array], copied: bool) -> GraphProto:
    branches = {}
    for name, cached in (("then_branch", True), ("else_branch", False)):
        suffix = "" if cached else "_no_cache"
        body = _Body("plain", head, cached, suffix, copied)
        own = {key + suffix: value for key, value in weights.items()} if copied else {}
        tensors = [*_stored(body.constants), *_stored(own)]
        branches[name] = helper.make_graph(body.nodes, name, [], _outputs(suffix), tensors)
    names = ["logits", *cache_names("present")]
    node = helper.make_node("If", ["use_cache_branch"], names, name="optimum::if", **branches)
    return helper.make_graph([node], "merged", _inputs("merged"), _outputs(""), [] if copied else _stored(weights))


class _Body:
    """The nodes of a decoder, with constants; every name ends with a suffix."""

    def __init__(self, form: Form, head: Head, cached: bool, suffix: str = "", copied: bool = False) -> None:
        self.form, self.head, self.cached, self.suffix, self.copied = form, head, cached, suffix, copied
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}
        self._count = 0
        self._decoder()

    def op(
        self, kind: str, *inputs: str, outputs: int = 1, named: str = "", domain: str = "", **attributes: Any
    ) -> Any:
        """Add a node; the name of its output, or of its outputs."""
        self._count += 1
        made = [named or f"{kind}_{self._count}_{k}{self.suffix}" for k in range(outputs)]
        name = f"/{kind}_{self._count}{self.suffix}"
        self.nodes.append(helper.make_node(kind, inputs, made, name=name, domain=domain, **attributes))
        return made[0] if outputs == 1 else made

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        array = np.asarray(value, dtype)
        for name, known in self.constants.items():
            if known.dtype == array.dtype and np.array_equal(known, array):
                return name
        name = f"constant_{len(self.constants)}{self.suffix}"
        self.constants[name] = array
        return name

    def weight(self, name: str) -> str:
        return name + self.suffix if self.copied else name

    def matmul(self, x: str, name: str) -> str:
        return str(self.op("MatMul", x, self.weight(name)))

    def _decoder(self) -> None:
        x = self.op("Gather", self.weight("embed"), "input_ids")
        shared = self._shared()
        for layer in range(LAYERS):
            mixed = self._attention(self._norm(x), layer, shared)
            x = self.op("Add", x, self.matmul(mixed, f"l{layer}.o"))
            inner = self._norm(x)
            gate = self.matmul(inner, f"l{layer}.gate")
            gated = self.op("Mul", self.op("Mul", gate, self.op("Sigmoid", gate)), self.matmul(inner, f"l{layer}.up"))
            x = self.op("Add", x, self.matmul(gated, f"l{layer}.down"))
        self._logits(self._norm(x))

    def _logits(self, x: str) -> None:
        named, tied = f"logits{self.suffix}", self.weight("embed")
        if self.head == "apart":
            self.op("MatMul", x, self.weight("head"), named=named)
        elif self.head == "transposed":
            self.op("MatMul", x, self.op("Transpose", tied, perm=[1, 0]), named=named)
        else:
            flat = self.op("Gemm", self.op("Reshape", x, self.const([-1, WIDTH])), tied, transB=1)
            sizes = self.op("Concat", self.op("Shape", "input_ids"), self.const([VOCABULARY]), axis=0)
            self.op("Reshape", flat, sizes, named=named)

    def _norm(self, x: str) -> str:
        if self.form == "standard":
            return str(self.op("RMSNormalization", x, self.weight("norm"), epsilon=1e-5))
        mean = self.op("ReduceMean", self.op("Mul", x, x), self.const([-1]))
        root = self.op("Sqrt", self.op("Add", mean, self.const(1e-5, np.float32)))
        return str(self.op("Mul", self.op("Div", x, root), self.weight("norm")))

    def _shared(self) -> tuple[str, ...]:
        """What all layers read: lengths, or a mask and the angles of the rotary embedding."""
        if self.form == "lengths":
            return "seqlens_k", "total_sequence_length"
        if self.form == "query":
            count = self.op("Sub", self.op("ReduceSum", "attention_mask", self.const([1]), keepdims=0), self.const(1))
            total = self.op("Gather", self.op("Shape", "attention_mask"), self.const(1))
            return tuple(str(self.op("Cast", one, to=TensorProto.INT32)) for one in (count, total))
        if self.form == "standard":
            return self._mask(), "", ""
        angles = self.op("Cast", self.op("Unsqueeze", "position_ids", self.const([2])), to=TensorProto.FLOAT)
        angles = self.op("Mul", angles, self.const(_frequencies(), np.float32))
        angles = self.op("Unsqueeze", self.op("Concat", angles, angles, axis=-1), self.const([1]))
        return self._mask(), str(self.op("Cos", angles)), str(self.op("Sin", angles))

    def _mask(self) -> str:
        """[batch, 1, new, past + new], to be added to scores."""
        zero, one = self.const(0), self.const(1)
        total = self.op("Gather", self.op("Shape", "attention_mask"), one)
        new = self.op("Gather", self.op("Shape", "input_ids"), one)
        columns = self.op("Unsqueeze", self.op("Range", zero, total, one), self.const([0]))
        rows = self.op("Unsqueeze", self.op("Range", self.op("Sub", total, new), total, one), self.const([1]))
        earlier = self.op("Unsqueeze", self.op("LessOrEqual", columns, rows), self.const([0]))
        real = self.op("Cast", self.op("Unsqueeze", "attention_mask", self.const([1])), to=TensorProto.BOOL)
        seen = self.op("Unsqueeze", self.op("And", earlier, real), self.const([1]))
        return str(self.op("Where", seen, self.const(0, np.float32), self.const(_LOWEST, np.float32)))

    def _attention(self, x: str, layer: int, shared: tuple[str, ...]) -> str:
        q, k, v = (self.matmul(x, f"l{layer}.{kind}") for kind in "qkv")
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}{self.suffix}" for part in ("key", "value")]
        if self.form in ("query", "lengths"):
            inputs = [q, k, v, *past, *shared, *self._tables()]
            output = f"mixed_{layer}"
            self.nodes.append(helper.make_node(
                "GroupQueryAttention", inputs, [output, *present], domain="com.microsoft", num_heads=HEADS,
                kv_num_heads=KV_HEADS, do_rotary=1, scale=HEAD**-0.5, name=f"/attention_{layer}",
            ))  # fmt: skip
            return output
        heads = [self._heads(one, count) for one, count in ((q, HEADS), (k, KV_HEADS), (v, KV_HEADS))]
        if self.form == "standard":
            turned = [self.op("RotaryEmbedding", one, *self._tables(), "position_ids") for one in heads[:2]]
            output = f"mixed_{layer}"
            inputs = [*turned, heads[2], shared[0], *past]
            self.nodes.append(helper.make_node("Attention", inputs, [output, *present], name=f"/attention_{layer}"))
            return self._joined(output)
        return self._by_hand(heads, past, present, shared)

    def _by_hand(self, heads: list[str], past: list[str], present: list[str], shared: tuple[str, ...]) -> str:
        mask, cos, sin = shared
        q, new = self._turned(heads[0], cos, sin), [self._turned(heads[1], cos, sin), heads[2]]
        for old, one, name in zip(past, new, present, strict=True):
            self.op("Concat", old, one, axis=2, named=name) if self.cached else self.op("Identity", one, named=name)
        k, v = (self._repeated(name) for name in present)
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Add", self.op("Mul", scores, self.const(HEAD**-0.5, np.float32)), mask)
        return self._joined(self.op("MatMul", self.op("Softmax", scores, axis=-1), v))

    def _heads(self, x: str, count: int) -> str:
        return str(self.op("Transpose", self.op("Reshape", x, self.const([0, 0, count, HEAD])), perm=[0, 2, 1, 3]))

    def _joined(self, x: str) -> str:
        return str(self.op("Reshape", self.op("Transpose", x, perm=[0, 2, 1, 3]), self.const([0, 0, WIDTH])))

    def _repeated(self, x: str) -> str:
        apart = self.op("Expand", self.op("Unsqueeze", x, self.const([2])), self.const([1, 1, HEADS // KV_HEADS, 1, 1]))
        return str(self.op("Reshape", apart, self.const([0, HEADS, -1, HEAD])))

    def _turned(self, x: str, cos: str, sin: str) -> str:
        first, second = self.op("Split", x, outputs=2, axis=-1, num_outputs=2)
        turned = self.op("Concat", self.op("Neg", second), first, axis=-1)
        return str(self.op("Add", self.op("Mul", x, cos), self.op("Mul", turned, sin)))

    def _tables(self) -> list[str]:
        angles = np.arange(LONGEST)[:, None] * _frequencies()
        for name, values in (("cos_cache", np.cos(angles)), ("sin_cache", np.sin(angles))):
            self.constants[name] = values.astype(np.float32)
        return ["cos_cache", "sin_cache"]


def _frequencies() -> Array:
    return np.asarray(10000.0 ** (-np.arange(0, HEAD, 2) / HEAD))
