"""One script for each claim, and a harness that runs them, keeps their results and writes the README's tables.

python -m benchmarks list | run NAME | run --all | tables [--check] | mark --why TEXT
"""
