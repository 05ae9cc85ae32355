"""Search for faults for some minutes; exit status 1 where there is one.

python -m tests.faults --minutes 60 --seed 1               # goes on where it was stopped
python -m tests.faults --minutes 5 --seed 1 --kind data    # one kind alone
python -m tests.faults --seed 1 --case data/voc/17         # repeats a case, with its traceback
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.campaign import Record, Result, Worker, case_names, generator
from tests.faults.commands import shared
from tests.faults.kinds import kinds


def main(argv: list[str] | None = None) -> int:
    """Run a campaign or a single case; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=10.0, help="the time of the search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=list(kinds()), help="default: all")
    parser.add_argument("--target", action="append", help="a verb or format; default: all")
    parser.add_argument("--most", type=int, help="cases of each kind; default: a whole campaign's")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--record", type=Path, help="the campaign's file; default: faults-SEED.jsonl"
    )
    parser.add_argument("--patience", type=float, default=1.0, help="factor of each case's time")
    parser.add_argument("--case", help="repeat this case only, in this process")
    given = parser.parse_args(argv)
    if given.case:
        return repeat(given.case, given.seed)
    shared()
    record = Record(given.record or Path(f"faults-{given.seed}.jsonl"), given.seed)
    chosen = {name: kind for name, kind in kinds().items() if name in (given.kind or kinds())}
    deadline = time.monotonic() + 60 * given.minutes
    for name, kind in chosen.items():
        targets = [t for t in kind.targets() if t in (given.target or [t])]
        most = kind.count if given.most is None else given.most
        names = case_names(name, targets) if targets else iter(())
        cases = [case for case, _ in zip(names, range(most), strict=False)]
        cases = [case for case in cases if case not in record.results]
        search(cases, given.patience * kind.seconds, given.seed, given.workers, deadline, record)
    return summarize(record, chosen)


def search(
    cases: list[str], seconds: float, seed: int, workers: int, deadline: float, record: Record
) -> None:
    """Try the cases, with so many workers, until all are tried or time is over."""
    waiting = iter(cases)

    def work(_: int) -> None:
        worker = Worker(kinds, seed)
        for case in waiting_cases():
            result = worker.attempt(case, seconds)
            record.add(result)
            if result.outcome == "fault":
                print(said(result, seed), flush=True)
        worker.close()

    def waiting_cases():
        while time.monotonic() < deadline and (case := next(waiting, None)) is not None:
            yield case

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))


def said(result: Result, seed: int) -> str:
    """A fault in words, with the command that repeats it."""
    return (
        f"{result.case}: {result.what[:300]}\n  {result.problem[:600]}\n"
        f"  python -m tests.faults --seed {seed} --case {result.case}"
    )


def summarize(record: Record, chosen) -> int:
    """Print the number of cases by kind and outcome; return 1 if there were faults, else 0."""
    counts = Counter((r.case.split("/")[0], r.outcome) for r in record.results.values())
    print(f"{'kind':10} {'tried':>7} {'accepted':>9} {'refused':>8} {'faults':>7}")
    for name in chosen:
        row = [counts[name, outcome] for outcome in ("accepted", "refused", "fault")]
        print(f"{name:10} {sum(row):7,} {row[0]:9,} {row[1]:8,} {row[2]:7,}")
    return int(any(outcome == "fault" and name in chosen for name, outcome in counts))


def repeat(case: str, seed: int) -> int:
    """Try one case in this process, where its traceback shows."""
    name, target, _ = case.split("/")
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        kinds()[name].run(target, generator(seed, case), Path(folder), print)
    print("accepted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
