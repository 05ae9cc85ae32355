"""The networks, and the table that makes any of them by its name.

`create(name, num_classes, kind, **options)` makes a classifier, or a grid detector, region network
or segmenter; `cnn_jax.models.registry` holds the table.
"""

from cnn_jax.models.registry import (
    InputSpec,
    Kind,
    Option,
    create,
    input_spec,
    names,
    option_table,
    options,
)

__all__ = [
    "InputSpec",
    "Kind",
    "Option",
    "create",
    "input_spec",
    "names",
    "option_table",
    "options",
]
