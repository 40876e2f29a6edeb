"""Calibration: samples of what a model is given, and what is measured with them."""
