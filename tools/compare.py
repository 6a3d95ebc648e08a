"""Put runs side by side, with paired confidence intervals over scenes.

    python tools/compare.py A/report.json B/report.json:student@1 … [--protocol occdistill]

A run is a row of a report whose folder still holds its `counts/`; the first is the reference. How often
such intervals hold the truth is measured in `docs/evaluation.md`.
"""

from occdistill.errors import Parser, run
from occdistill.evaluation.compare import compare, comparison_page, load_run
from occdistill.evaluation.protocols import PROTOCOLS, get_protocol
from occdistill.store import check_place, write_json


def main() -> None:
    """Compare and print."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="REPORT.json[:ROW]")
    parser.add_argument("--protocol", default="occdistill", help=", ".join(PROTOCOLS))
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--out", type=check_place, help="write the numbers as JSON too")
    args = parser.parse_args()
    protocol = get_protocol(args.protocol)
    runs = [load_run(spec) for spec in args.runs]
    result = compare(runs, protocol, args.confidence)
    print(comparison_page(result, protocol, args.confidence))
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    run(main)
