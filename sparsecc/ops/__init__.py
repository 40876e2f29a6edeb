"""The vocabulary: one file per operator. Members: block_attention, quantized_linear, sparse_conv2d, sparse_linear,
structured_linear."""

HELPERS = ("onnx_block_attention", "onnx_functions", "onnx_quantized", "onnx_structured", "stored")  # modules here that are no operators
