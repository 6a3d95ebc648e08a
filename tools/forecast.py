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
from occdistill.build.config import load_config
from occdistill.build.lineup import lineup
from occdistill.build.models import Models
from occdistill.build.showing import SYNTHETIC, Clip
from occdistill.errors import UserError, run
from occdistill.visualization.page import Panel, write_page


def parse() -> argparse.Namespace:
    """The command line."""
    parser = common.parser(__doc__)
    add = parser.add_argument
    add("source", nargs="?", help="synthetic, or a nuScenes + Occ3D folder")
    add("--config", help="default: configs/demo.py, with --lidar configs/demo_lidar.py")
    add("--cfg-options", nargs="+", action=common.DictAction, default={}, metavar="KEY=VALUE")
    add("--checkpoint", help="a distilled student; default: the config's teacher alone")
    add("--clip", type=int, help="its number; default: 0, or the newest sweep")
    add("--out", type=Path, help="the page, FILE.html")
    add("--viewer", choices=("html", "rerun"), default="html", help="rerun: its window, or .rrd")
    add("--nfe", type=common.positive, nargs="*", default=[10], help="of the teacher")
    add("--samples", type=common.positive, default=1, help="futures of the student")
    add("--seed", type=int, default=0, help="of the noise, and of a synthetic street")
    add("--plan", choices=("recorded", "constant"), default="recorded", help="where the ego goes")
    common.add_forecaster(add)
    args = parser.parse_args()
    if args.viewer == "html" and (args.out is None or args.out.suffix != ".html"):
        raise UserError("say where the page goes: --out FILE.html")
    return args


def main() -> None:
    """Forecast, write, say where."""
    logging.basicConfig(format="%(message)s")
    args = parse()
    options = dict(args.cfg_options)
    if args.source not in (None, SYNTHETIC):
        options = {**showing.with_version(Path(args.source)), **options}
    config = load_config(args.config or "configs/demo.py", options)
    entries = lineup(Models(config), args.checkpoint, args.nfe, **common.forecaster_options(args))
    if not entries:
        raise UserError("nothing to forecast with: pass --checkpoint STUDENT, or --nfe 10")
    codec = entries[0].forecaster.codec
    clip = showing.recorded(config, args.source, args.clip or 0, codec.future, args.seed)
    known = "where the ego really goes is known" if codec.plan else "from the past alone"
    if args.plan == "constant":
        clip, known = clip.going_on(codec.future), "the ego is taken to go on as it does"
    found = showing.forecasts(entries, clip, args.samples, args.seed)
    truth = None if clip.future is None else clip.future.numpy()
    shown = showing.panels(truth, found, showing.carried_on(clip, codec.grid))
    show(args, clip, shown, codec.grid, known)


def show(args: argparse.Namespace, clip: Clip, panels: list[Panel], grid, known: str) -> None:
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
