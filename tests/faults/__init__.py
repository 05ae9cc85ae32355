"""Generators of faults: odd command lines, corrupted files. What is declared is covered."""
