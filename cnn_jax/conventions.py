"""What every room agrees on: the special tokens, the ignored label, batch norm's momentum."""

PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3
"""The first tokens of every vocabulary: padding, a word that it lacks, start and end of a text."""

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
"""The names of the special tokens, by index."""

IGNORED = 255
"""The label of pixels that losses and metrics ignore."""

BATCH_NORM_MOMENTUM = 0.9
"""The weight of the old running statistics in a step of batch normalisation."""
