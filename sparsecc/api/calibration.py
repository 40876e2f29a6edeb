"""`calibration.samples` under the name that programs outside know."""

from sparsecc.calibration.samples import samples_of

__all__ = ["samples_of"]
