"""Models that write one token after the other, as steps with a cache of fixed size."""
