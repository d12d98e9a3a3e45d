"""Benchmarks: what takes how long, beside what this machine can do. No run imports them."""
