"""Speed of this project, and of torch beside it: `python -m experiments.benchmark`."""
