"""A search for faults: odd flags, mutated data, corrupted run files and kills, from a seed.

python -m tests.faults --minutes 10 --seed 1

A new flag is covered by being declared, a new format by its writer in `boxes`, `images`, `texts`.
"""
