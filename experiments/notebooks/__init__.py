"""Executed notebooks: four of the lecture's applications, and two for teaching."""
