"""How work is run and found again: engine, work cache, digests of code."""
