"""``make gpu-check``: everything that only a GPU can tell, in stages, each in a process of its own with a time limit.

It stands among the benchmarks because it ends in figures; the tests it runs are those of ``tests/``.
"""
