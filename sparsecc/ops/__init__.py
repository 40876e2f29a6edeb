"""The vocabulary: one file per sparse operator. Members: sparse_linear, sparse_conv2d."""

HELPERS = ("onnx_functions",)  # modules here that are no operators
