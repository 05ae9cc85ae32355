"""The detection systems of `experiments.detect`: what each adds to the command, a module each."""
