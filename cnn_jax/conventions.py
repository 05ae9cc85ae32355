"""Conventions shared by all packages: special tokens, the ignored label, batch norm's momentum."""

PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3
"""The first tokens of every vocabulary: padding, unknown word, start of text, end of text."""

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
"""The names of the special tokens, by index."""

IGNORED = 255
"""The label of pixels that losses and metrics ignore."""

BATCH_NORM_MOMENTUM = 0.9
"""The weight of the old running statistics in a step of batch normalisation."""
