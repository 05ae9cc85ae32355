"""The detection systems as tasks, and what they share."""
