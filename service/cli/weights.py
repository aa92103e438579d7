"""`coordserve models`, and `coordserve weights import` and `verify`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from models.config import CONFIG_FILE, Attention, Family, Network
from service.cli.common import CommandError, network

if TYPE_CHECKING:
    from service.cli.common import Commands


def add_to(commands: "Commands") -> None:
    command = commands.add_parser("models", help="list the networks: counted here, and as the paper reports them")
    command.set_defaults(run=models)

    command = commands.add_parser("weights", help="import a checkpoint, or check a model directory")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("import", help="turn a PyTorch or safetensors checkpoint into a model directory")
    action.add_argument("checkpoint", type=Path, help="such as the CoordAtt authors' mbv2_ca.pth")
    action.add_argument("--to", required=True, type=Path, metavar="DIR", help="the model directory to write")
    action.add_argument("--network", type=network, help="see `coordserve models` (default: mobilenetv2_ca_100)")
    action.add_argument("--labels", type=Path, metavar="FILE", help="a class name a line (default: ImageNet's 1000)")
    action.set_defaults(run=import_)
    action = actions.add_parser("verify", help="check names, shapes, values and digest of a model directory")
    action.add_argument("model", type=Path, metavar="DIR")
    action.set_defaults(run=verify)


def models(options: argparse.Namespace) -> int:
    from models import cost
    from models.imagenet import PREPROCESSING
    from models.networks import create
    from models.published import PUBLISHED

    size = PREPROCESSING.input_size
    print(f"{'':<24}  {'parameters, million':<22}  {f'multiply-adds at {size}, million':<32}  ImageNet top-1, %")
    print(f"{'network':<24}  {'counted':>10}  {'published':>10}  {'counted':>15}  {'published':>15}  {'published':>17}")
    for family in get_args(Family):
        for attention in get_args(Attention):
            listed = Network(family=family, attention=attention)
            built = create(listed, 1000).eval()
            published = PUBLISHED.get(listed.name)
            columns = (
                (f"{cost.parameters(built) / 1e6:.3f}", 10),
                (f"{published.parameters / 1e6:g}" if published else "-", 10),
                (f"{cost.multiply_adds(built, size) / 1e6:.1f}", 15),
                (f"{published.multiply_adds / 1e6:.0f}" if published else "-", 15),
                (f"{published.top1:.1f}" if published else "-", 17),
            )
            print(f"{listed.name:<24}  " + "  ".join(f"{text:>{width}}" for text, width in columns))
    print(
        "Published: Hou et al., CVPR 2021, https://arxiv.org/abs/2103.02907; none of it measured here. "
        "The last number of a name is the width in hundredths: mobilenetv2_ca_050 is half as wide."
    )
    return 0


def import_(options: argparse.Namespace) -> int:
    from models import directory
    from models.weights import WeightsError, read_checkpoint

    if (options.to / CONFIG_FILE).exists():
        raise CommandError(f"{options.to} has a model already; name another --to, or remove it")
    try:
        labels = _lines(options.labels) if options.labels else None
        imported = read_checkpoint(options.checkpoint, options.network, labels)
        directory.save(options.to, imported.config, imported.network)
    except (WeightsError, UnicodeDecodeError, OSError) as error:
        raise CommandError(str(error)) from error
    for remark in imported.remarks:
        print(remark)
    print(f"wrote {options.to}: {imported.config.network.name}, {imported.config.num_classes} labels")
    return 0


def verify(options: argparse.Namespace) -> int:
    from models.weights import verify

    for line in verify(options.model):
        print(line)
    return 0


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
