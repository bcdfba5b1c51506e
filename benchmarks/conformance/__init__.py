"""The proof that any ONNX model goes in and a faithful one comes out: `python -m benchmarks.conformance`."""
