"""Classifies pictures in this process, eagerly, in batches."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from models import directory
from models.images import ImageError, Picture, Pixels
from models.inference import for_inference
from service.answers import AnswerWriter
from service.cli.predicting import Result


class Local:
    """A model directory, loaded here."""

    BATCH = 32

    def __init__(self, model: Path, top_k: int) -> None:
        """Raises ModelDirectoryError."""
        config, network = directory.load(model)
        self._preprocessing, self._top_k = config.preprocessing, top_k
        self._classifier = for_inference(network, config)
        self._writer = AnswerWriter(config.name, config.labels)

    def classify(self, pictures: list[tuple[str, bytes]]) -> Iterator[Result]:
        """The result of each picture, in order."""
        pixels: dict[int, Pixels] = {}
        refused: dict[int, Result] = {}
        for index, (name, data) in enumerate(pictures):
            try:
                pixels[index] = Picture(data).pixels(self._preprocessing)
            except ImageError as error:
                refused[index] = Result(name, error=str(error))
        scores: dict[int, np.ndarray] = {}
        if pixels:
            with torch.inference_mode():
                batch = self._classifier(torch.from_numpy(np.stack(list(pixels.values())))).numpy()
            scores = dict(zip(pixels, batch, strict=True))
        for index, (name, _) in enumerate(pictures):
            yield refused.get(index) or Result(name, json.loads(self._writer.ranking(scores[index], self._top_k)))
