"""Writers."""


def formats():
    return {}
