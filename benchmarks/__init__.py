"""One script for each claim, and a harness that runs them, keeps their results and writes the README's tables.

    python -m benchmarks list                        # what there is, when it was measured, whether the script changed
    python -m benchmarks run NAME [options] [--out FOLDER]
    python -m benchmarks run --all
    python -m benchmarks tables [--check]            # README.md and docs/images from the committed results
    python -m benchmarks mark [NAME ...] --why TEXT  # a changed script that still measures the same

A script has a function `run`, whose keyword arguments with their defaults are its options, and which gives a `Result`
of rows; the harness adds machine, versions, load, time and the sha256 of the code. `PEERS` names the packages whose
versions are recorded. A script that takes several settings has a line for each in `harness/catalogue.py`. One thread
is set before `run`. What is missing (data, a package) is a `NotMeasuredError`.
"""
