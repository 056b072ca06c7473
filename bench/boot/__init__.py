"""A boot's device traffic, recorded from a stock QEMU, and what it costs a vCPU by each way.

`python -m bench.boot.record` records; `make bench ARGS="--only boot"` adds up.
"""
