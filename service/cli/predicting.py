"""`coordserve predict`."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from models.config import BUNDLED_MODEL
from service.cli.common import count

if TYPE_CHECKING:
    from service.cli.common import Commands


def add_to(commands: "Commands") -> None:
    command = commands.add_parser("predict", help="classify image files here, without a server")
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    command.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="model directory")
    command.add_argument("--top-k", type=count, default=1, help="classes to show (default: 1)")
    command.set_defaults(run=predict)


def predict(options: argparse.Namespace) -> int:
    from models.config import read_config
    from models.images import ImageError, Picture
    from service.answers import AnswerWriter

    pixels, failed = [], False

    config = read_config(options.model)
    for path in options.images:
        try:
            data = path.read_bytes()
            pixels.append((path, Picture(data).pixels(config.preprocessing)))
        except (OSError, ImageError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            print(f"{path}: {reason}", file=sys.stderr)
            failed = True
    if pixels:
        import numpy as np
        import torch

        from models import directory
        from models.inference import for_inference

        classifier = for_inference(directory.load(options.model)[1], config)
        writer = AnswerWriter(config.name, config.labels)
        for path, image in pixels:
            with torch.inference_mode():
                scores = classifier(torch.from_numpy(np.array(image)[None])).numpy()[0]
            ranking = json.loads(writer.ranking(scores, options.top_k))
            print(f"{path}: " + ", ".join(f"{entry['label']} {entry['score']:.4f}" for entry in ranking))
    return int(failed)
