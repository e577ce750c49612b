"""Everything that reads or edits an ONNX graph."""
