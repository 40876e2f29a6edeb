"""The vocabulary: one file per operator. Members: sparse_linear, sparse_conv2d, structured_linear."""

HELPERS = ("onnx_functions", "onnx_structured")  # modules here that are no operators
