"""How many examples each law is tried on, the same ones in every run. HYPOTHESIS_MAX_EXAMPLES=1000 looks harder."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("laws", max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "20")), deadline=None, derandomize=True)
settings.load_profile("laws")
