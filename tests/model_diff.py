"""What may differ between a model and its quantized form, and nothing else."""

from __future__ import annotations

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

import mixquant_onnx as mq

_FIELDS = ("producer_name", "producer_version", "domain", "model_version", "doc_string")


def _bytes(message: object) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)  # type: ignore[attr-defined]
    return data


def _graph_of(node: NodeProto) -> list[GraphProto]:
    return [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]


def assert_only_weights_changed(before: ModelProto, result: mq.RunResult) -> None:
    after = result.model
    for name in _FIELDS:
        assert getattr(before, name) == getattr(after, name), name
    assert [_bytes(p) for p in before.metadata_props] == [_bytes(p) for p in after.metadata_props]
    same_opset = result.rewritten.opset[0] == result.rewritten.opset[1]
    tensors = {located.site.tensor for located in result.sites.values() if located.site.name in result.plan.sites}
    _same_graph(before.graph, after.graph, tensors, same_opset, before.ir_version)
    kept = [f for f in after.functions if f.domain != "mixquant"]
    assert [f.name for f in before.functions] == [f.name for f in kept]


def _same_graph(a: GraphProto, b: GraphProto, tensors: set[str], same_opset: bool, ir: int) -> None:
    stored = {t.name for t in a.initializer}
    inputs = [_bytes(v) for v in a.input if ir >= 4 or v.name not in stored]
    assert inputs == [_bytes(v) for v in b.input if ir >= 4 or v.name not in stored]
    assert [_bytes(v) for v in a.output] == [_bytes(v) for v in b.output]
    assert (a.name, a.doc_string) == (b.name, b.doc_string)
    infos = {v.name: _bytes(v) for v in b.value_info}
    assert {v.name: _bytes(v) for v in a.value_info}.items() <= infos.items()
    left = {t.name: _bytes(t) for t in b.initializer}
    for tensor in a.initializer:
        if tensor.name not in tensors:
            assert left[tensor.name] == _bytes(tensor)
    _same_nodes(a, b, tensors, same_opset, ir)


def _same_nodes(a: GraphProto, b: GraphProto, tensors: set[str], same_opset: bool, ir: int) -> None:
    by_output = {output: node for node in b.node for output in node.output if output}
    for node in a.node:
        outputs = [o for o in node.output if o]
        if not outputs or (node.op_type == "Constant" and outputs[0] in tensors):
            continue
        found = by_output[outputs[0]]
        reads_weight = any(name in tensors for name in node.input)
        if node.op_type == "Gemm" and reads_weight and found.op_type == "Add":
            continue
        assert list(found.output) == list(node.output)
        graphs = list(zip(_graph_of(node), _graph_of(found), strict=True))
        for inner, other in graphs:
            _same_graph(inner, other, tensors, same_opset, ir)
        if same_opset and not reads_weight and not graphs:
            assert _bytes(found) == _bytes(node)
        elif same_opset or found.op_type == node.op_type:
            assert (found.name, found.doc_string) == (node.name, node.doc_string)
            assert [_bytes(p) for p in found.metadata_props] == [_bytes(p) for p in node.metadata_props]
