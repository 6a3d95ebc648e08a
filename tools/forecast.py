"""Forecast a clip and write a page to turn it around in any browser, or show it in Rerun.

    python tools/forecast.py synthetic --out forecast.html
    python tools/forecast.py data/nuscenes --config configs/nus.py --checkpoint STUDENT --clip 12 --out f.html
    python tools/forecast.py --lidar SWEEPS --height 1.73 --out f.html --save forecasts/

SOURCE is `synthetic` (a street made on the fly), a nuScenes + Occ3D folder, or left out (the
config's own). --lidar takes unlabelled sweeps, see docs/own_data.md.
"""

import argparse
import logging
from pathlib import Path

import _options as common

from occdistill.build import showing
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.build.own_sweeps import own_sweeps, save_forecasts
from occdistill.build.pretrained import PRETRAINED, planner_for
from occdistill.build.showing import SYNTHETIC, ShownClip
from occdistill.errors import UserError, run
from occdistill.visualization.page import Panel, write_page


def parse() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    add("source", nargs="?", help="synthetic, or a nuScenes + Occ3D folder")
    told = "default: configs/demo.py, with --lidar configs/demo_lidar.py"
    common.add_config(add, "--config", help=told)
    told = "a distilled student; default: the demo's, with --config its teacher alone"
    add("--checkpoint", help=told)
    add("--clip", type=int, help="its number; default: 0, or the newest sweep")
    add("--out", type=Path, help="the page, FILE.html")
    add("--viewer", choices=("html", "rerun"), default="html", help="rerun: its window, or .rrd")
    add("--nfe", type=common.positive, nargs="*", default=[10], help="of the teacher")
    add("--samples", type=common.positive, default=1, help="futures of the student")
    add("--seed", type=int, default=0, help="of the noise, and of a synthetic street")
    add("--lidar", type=Path, metavar="DIR", help="forecast from these unlabelled sweeps")
    add("--poses", type=Path, help="of the sensor; default: DIR/poses.txt, or the car stands")
    add("--layout", help="of raw sweeps: xyzi, xyzir, …")
    add("--height", type=float, help="of the sensor above the ground, metres; default: as seen")
    add("--ahead", choices=("x", "y"), default="x", help="the sensor's axis to the car's front")
    add("--rate", type=float, default=10.0, help="sweeps per second")
    add("--save", type=Path, metavar="DIR", help="write the forecast of every half second")
    add("--plan", choices=("recorded", "planned", "constant"), default="recorded")
    common.add_forecaster(add)
    args = parser.parse_args()
    if (args.lidar and args.source) or (args.save and not args.lidar):
        raise UserError("give SOURCE or --lidar DIR, not both; --save needs --lidar")
    if args.viewer == "html" and (args.out is None or args.out.suffix != ".html"):
        raise UserError("say where the page goes: --out FILE.html")
    return args


def main() -> None:
    """Forecast, write, say where."""
    logging.basicConfig(format="%(message)s")
    args = parse()
    if args.source not in (None, SYNTHETIC):
        found = showing.with_version(Path(args.source))
        args.cfg_options = {**found, **args.cfg_options}
    if args.config is None:
        args.config = "configs/demo.py" if args.lidar is None else "configs/demo_lidar.py"
        args.checkpoint = args.checkpoint or PRETRAINED["demo"]
    config = common.read_config(args)
    if args.lidar is not None and args.encoder == ["full"]:
        args.encoder = ["lidar"]
    own = args.lidar and own_sweeps(
        config, args.lidar, args.poses, args.layout, args.height, args.ahead, args.rate
    )
    entries = lineup(Models(config), args.checkpoint, args.nfe, **common.forecaster_options(args))
    if not entries:
        raise UserError("nothing to forecast with: pass --checkpoint STUDENT, or --nfe 10")
    codec = entries[0].forecaster.codec
    if own:
        clip, known, first = own.clip(args.clip, codec.future), own.told, "LiDAR, as it came"
    else:
        clip = showing.recorded(config, args.source, args.clip or 0, codec.future, args.seed)
        known, first = "where the ego really goes is known", "truth"
        if args.plan != "recorded" or not codec.plan:
            clip, known = clip.going_on(codec.future), "the ego is taken to go on as it does"
    planner = planner_for(config, device=args.device) if args.plan == "planned" else None
    known = known if planner is None else "where the ego goes is drawn for each future"
    found = showing.forecasts(entries, clip, args.samples, args.seed, planner)
    rule = showing.carried_on(clip, codec.grid)
    show(args, clip, showing.panels(clip, found, rule, first), codec.grid, known)
    if args.save is not None:
        count = save_forecasts(args.save, own, entries[-1], config, args.seed)
        print(f"{args.save}: {count} forecasts of {entries[-1].name}")


def show(args: argparse.Namespace, clip: ShownClip, panels: list[Panel], grid, known: str) -> None:
    """A page, or Rerun."""
    if args.viewer == "rerun":
        from occdistill.visualization.rerun_scene import record

        record(panels, grid, clip.past.numpy(), clip.name, args.out)
        return
    write_page(args.out, panels, grid, clip.past.numpy(), clip.name, known)
    size = args.out.stat().st_size / 1e6
    print(f"{args.out}: {clip.name}, {len(panels)} panels, {size:.1f} MB; open it in a browser")


if __name__ == "__main__":
    run(main)
