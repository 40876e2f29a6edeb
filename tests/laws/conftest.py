"""How many examples each law is tried on, the same ones in every run. HYPOTHESIS_MAX_EXAMPLES=1000 looks harder.

A law that fails is not explained line by line: to trace torch takes minutes, where the smallest example takes seconds."""

from __future__ import annotations

import os

from hypothesis import Phase, settings

PHASES = [phase for phase in Phase if phase is not Phase.explain]
EXAMPLES = int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "20"))
settings.register_profile("laws", max_examples=EXAMPLES, phases=PHASES, deadline=None, derandomize=True)
settings.load_profile("laws")
