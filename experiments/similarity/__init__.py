"""Look-alike search: what is compared, the network that compares it, and the index on disk."""
