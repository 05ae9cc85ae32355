"""One reader a file: each turns a data spec into a source of examples."""
