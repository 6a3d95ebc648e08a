"""Say what is there, what is missing or damaged, and which commands each gap stops.

    python tools/doctor.py [DATAROOT] [--config configs/nus.py] [--full] [--json]

Exit code: 0 if nothing is stopped, 1 if something is missing or damaged, 2 for a wrong command line.
Needs nothing but Python.
"""

import json
from pathlib import Path

from occdistill.doctor.dataset import Doctor, check_caches
from occdistill.doctor.environment import check_environment, check_weights
from occdistill.doctor.findings import as_json, report
from occdistill.errors import MAKE_WORLD, Parser, UserError, as_typed, run


def main() -> int:
    """Look, print, and return the exit code."""
    parser = Parser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("dataroot", nargs="?", type=Path, help="a nuScenes or Occ3D folder")
    add("--config", help="a config whose data and weights are looked for")
    add("--full", action="store_true", help="look into every file, not a sample")
    add("--layout", default="xyzir", help="columns of LiDAR clouds; KITTI's are xyzi")
    add("--json", action="store_true", help="print the findings for a script")
    add("--weights", type=Path, default=Path("data"), help="folder of checkpoints")
    add("--caches", type=Path, default=Path("work_dirs"), help="folder of encoded clips")
    add("--no-render", action="store_true", help="don't try Open3D")
    add("--data-only", action="store_true", help="leave out the environment, weights and caches")
    args = parser.parse_args()
    if args.dataroot and not args.dataroot.is_dir():
        raise UserError(
            f"no data root at {args.dataroot}; make the embedded world with "
            f"`{MAKE_WORLD}`, or see the README's nuScenes section"
        )
    findings = []
    if args.config:
        from occdistill.doctor.needs import check_config  # needs the packages

        findings, root = check_config(args.config)
        args.dataroot = args.dataroot or root
    if not args.data_only:
        findings += check_environment(args.dataroot or Path(), render=not args.no_render)
        findings += check_weights(args.weights) + check_caches(args.caches)
    if args.dataroot:
        findings += [] if args.data_only else check_caches(args.dataroot / ".occdistill")
        findings += Doctor(args.dataroot, args.full, args.layout)()
    print(json.dumps(as_json(findings), indent=1) if args.json else as_typed(report(findings)))
    return int(any(f.problem for f in findings))


if __name__ == "__main__":
    run(main)
