"""Readers of data formats, one per file: each turns a data spec into a source of examples."""
