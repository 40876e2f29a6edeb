"""Search for faster knobs by measuring: `records` keeps what was measured, `worker` measures, `search` proposes, `tuner` does all of it."""
