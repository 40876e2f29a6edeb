"""The vocabulary: one file per sparse operator. Members: block_attention, sparse_conv2d, sparse_linear."""

HELPERS = ("onnx_block_attention", "onnx_functions")  # modules here that are no operators
