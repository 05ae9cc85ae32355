"""The claims of papers about these networks, tested: each a sweep with its seeds and its verdict.

python -m experiments.claims --list
python -m experiments.claims deeper_plain_nets --out runs/claims
python -m experiments.claims --out runs/claims --minutes 60       # all, for an hour; again goes on
python -m experiments.claims --table                              # the README's table

A claim is a file, see `claim`. Its runs are a sweep's, see `running`; the rule is in `verdict`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax

from cnn_jax.errors import UnfinishedError, UserError
from cnn_jax.runs.names import duration
from cnn_jax.training import stopping

from .. import options as flags
from ..sweep import FAILED
from . import pages, rows, running
from .claim import Claim, load, names
from .verdict import verdicts


@dataclass(frozen=True)
class Options:
    """Test the claims of papers, each by a sweep over seeds, and tell which held."""

    verb: ClassVar[str] = "claims"

    names: tuple[str, ...] = flags.flag((), positional=True, metavar="NAME")
    """The claims. Default: all."""
    out: str | None = flags.flag(None, aliases="output-dir", metavar="DIR")
    """Folder with a folder for each claim. The same command continues there."""
    list: bool = False
    """Print the claims and the verdicts so far, and run nothing."""
    table: bool = flags.flag(False, unless={"list": flags.GIVEN})
    """Print the table of all claims from the committed rows, and run nothing."""
    minutes: float | None = flags.flag(None, above=0, maximum=1e6)
    """Stop after this time, with exit status 75; the same command continues."""
    jobs: int | None = flags.flag(None, minimum=1, maximum=1024)
    """Runs at a time, as in a sweep."""
    record: bool = False
    """Add the measured rows to the committed ones, in a clone."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags; run the claims, or print what is known of them."""
    options = flags.parse_plain(Options, argv)
    claims = [load(name) for name in dict.fromkeys(options.names or names())]
    if options.table:
        print(pages.markdown([(each, verdicts(each, rows.committed(each))) for each in claims]))
        return
    if options.list:
        for each in claims:
            tell(each, rows.committed(each))
        return
    if options.out is None:
        raise UserError("--out: name the folder of the claims; --list prints them")
    # The devices are for the runs: this process takes no memory of theirs.
    jax.config.update("jax_platforms", "cpu")
    failed: list[str] = []
    with stopping.limited(options.minutes):
        for each in claims:
            failed += examine(each, Path(options.out), options.jobs, options.record)
    if failed:
        raise SystemExit(FAILED)


def examine(claim: Claim, out: Path, at_a_time: int | None, record: bool) -> list[str]:
    """Carry out what lacks of a claim, and write its page; return the runs that failed.

    Raises:
        UnfinishedError: it was asked to end early; the page has what was measured before.
        UserError: see `running.carry_out`.
    """
    budget = duration(60 * claim.minutes * claim.runs)
    print(f"{claim.name}: {claim.minutes:g} minutes a run, {budget} in all", file=sys.stderr)
    stopped, failed = None, []
    try:
        failed = running.carry_out(claim, out, at_a_time)
    except UnfinishedError as error:
        stopped = error
    found = running.known(claim, out)
    if record:
        keys = {claim.key(v, seed, m) for v, m in claim.measured for seed in claim.seeds}
        current = (row for key, row in found.items() if key in keys)
        rows.write(rows.COMMITTED / f"{claim.name}.csv", current)
    tell(claim, found)
    print(f"page: {pages.write(claim, found, out / claim.name)}")
    if stopped is not None:
        raise stopped
    return failed


def tell(claim: Claim, found: rows.Rows) -> None:
    """Print a claim and its verdicts."""
    print(f"{claim.name}: {claim.claim} ({claim.source})")
    for outcome in verdicts(claim, found):
        print(f"  {outcome.comparison.sentence}: {outcome.line}")
