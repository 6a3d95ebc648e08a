"""Write a checkpoint's weights as safetensors, for code that isn't this project's.

    python tools/export.py data/demo-weights/student.pth --out student.safetensors

The file's metadata says what they are: kind, config, fingerprints.
"""

from pathlib import Path

from occdistill import checkpoint, places
from occdistill.errors import Parser, run


def main() -> None:
    """Export one checkpoint."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    args = parser.parse_args()
    count = checkpoint.export(places.typed(args.checkpoint), args.out)
    print(f"{args.out}: {count} tensors")


if __name__ == "__main__":
    run(main)
