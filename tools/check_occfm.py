"""Compare our OccFM networks with golden vectors made by the original ones.

    python tools/check_occfm.py [--golden tests/occfm/golden_seed0.npz --seed 0]

Weights and inputs are drawn by a rule from the seed, outputs are compared with the file. Exits 1 if
an array is beyond tolerance (rms error over standard deviation 2e-5, largest error 2e-4). Takes two
to three minutes on two cores.
"""

from pathlib import Path

import torch

from occdistill import places
from occdistill.errors import Parser, UserError, run
from occdistill.occfm.golden import MAX_TOLERANCE, PARTS, RMS_TOLERANCE, compare_part
from occdistill.store import read_npz

GOLDEN = places.ROOT / "tests" / "occfm" / "golden_seed0.npz"  # in a checkout, not in a wheel


def main() -> int:
    """Print one line per array."""
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--golden", type=Path, default=GOLDEN, help="npz of the original networks' outputs")
    add("--seed", type=int, default=0, help="that the golden file was made with")
    add("--part", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    add("--device", default="cpu")
    args = parser.parse_args()
    place = "seed 0's is tests/occfm/golden_seed0.npz in the repository"
    golden = read_npz(args.golden, (), "golden file", place)
    if args.device != "cpu":
        if not torch.cuda.is_available():
            raise UserError(f"no GPU for --device {args.device}: run with --device cpu")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print(
        f"{'array':<24}{'largest':>11}{'relative':>11}   (bounds {MAX_TOLERANCE}, {RMS_TOLERANCE})"
    )
    failed = compared = 0
    for part in args.part:
        for row in compare_part(part, args.seed, golden, args.device):
            verdict = "" if row.passed else "   BEYOND TOLERANCE"
            print(f"{row.name:<24}{row.largest:>11.1e}{row.relative:>11.1e}{verdict}", flush=True)
            failed += not row.passed
            compared += 1
    if not compared:
        raise UserError(f"{args.golden} holds none of the arrays of {', '.join(args.part)}")
    print(f"{compared - failed} of {compared} within tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
