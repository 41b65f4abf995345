"""Benchmarks as ratios against another program or a lower bound, measured in the same run."""
