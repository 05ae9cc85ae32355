"""The tokens that every vocabulary begins with."""

PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3
"""Nothing (fills rows up); a word the vocabulary lacks; before the first word; after the last."""

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
"""Their names, by index."""
