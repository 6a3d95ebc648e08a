"""Compare how the embedded world moves with recorded drives, quantity by quantity.

    python tools/motion.py DIR [--scenes N] [--seed S] [--without scene-0103 scene-0916]

DIR holds one npz per recorded scene (data/README.md has the format). Simulates N scenes, without
scanning them: about a second each.
"""

import argparse
from pathlib import Path

from occdistill.errors import Parser, run
from occdistill.world.motion import read_folder, simulated
from occdistill.world.simulate import drive
from occdistill.world.statistics import compare


def main() -> None:
    """Parse the command line, simulate, print the table."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recorded", type=Path, metavar="DIR")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", nargs="*", default=[], metavar="SCENE", help="leave these out")
    args = parser.parse_args()
    recorded = [m.keyframes() for m in read_folder(args.recorded) if m.name not in args.without]
    for motion in recorded:
        for note in motion.notes:
            print(f"{motion.name}: {note}")
    drives = [drive(args.seed, "train", n, 40)[1] for n in range(args.scenes)]
    print("| quantity | embedded: mean, median, 95 % | recorded | distance | tolerance |")
    print("|---|---|---|---|---|")
    for row in compare([simulated(tracks) for tracks in drives], recorded):
        ours, theirs = (", ".join(f"{x:.2f}" for x in part) for part in (row.one, row.two))
        print(
            f"| {row.name.strip()} | {ours} | {theirs} | {row.distance:.3f} | {row.tolerance:.3f} |"
        )


if __name__ == "__main__":
    run(main)
