"""Networks and tensors for other programs: safetensors, ONNX, Python."""
