"""One VM, synchronous: the same code serves production, tests, oracle runs and replay."""
