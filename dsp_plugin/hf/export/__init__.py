"""Models that load without this package: Transformers folders and ONNX."""
