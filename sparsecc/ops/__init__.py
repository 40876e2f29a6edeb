"""The vocabulary: one file per operator. Members: block_attention, sparse_conv2d, sparse_linear, structured_linear."""

HELPERS = ("onnx_block_attention", "onnx_functions", "onnx_structured")  # modules here that are no operators
