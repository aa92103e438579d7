"""Finds where the network looked, in the engine: eagerly and in float32, one image at a time."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import directory
from models.attention_maps import attention, grad_cam
from models.inference import Classifier, for_inference
from models.networks import ConvNet
from service.explanations import BEST, Block, Explanation, Method, levels


class Explainer:
    """The eager network beside the one that is served; loaded when it is first asked."""

    def __init__(self, model: Path, device: str) -> None:
        self._model, self._device = model, device
        self._loaded: tuple[ConvNet, Classifier] | None = None

    def explain(
        self, pixels: NDArray[np.uint8], method: Method, target: int
    ) -> tuple[NDArray[np.float32], Explanation]:
        """Scores float32 [classes] of an image uint8 [S, S, 3], and where the network looked for class `target`.

        Raises ValueError where the method does not suit the network, ModelDirectoryError.
        """
        network, classifier = self._load()
        images = classifier.normalise(torch.from_numpy(pixels.copy())[None].to(self._device))
        if method is Method.GRADCAM:
            with torch.no_grad():
                logits = network(images)
            targets = logits.argmax(dim=1) if target == BEST else torch.tensor([target], device=self._device)
            return _scores(logits), Explanation(levels(grad_cam(network, images, targets)[0].cpu().numpy()))
        looked = attention(network, images)
        blocks = [
            Block(
                int(block.name.split(".")[1]),
                block.a_h[0].mean(dim=0).cpu().numpy(),
                block.a_w[0].mean(dim=0).cpu().numpy(),
                block.map()[0].cpu().numpy(),
            )
            for block in looked.blocks
        ]
        return _scores(looked.logits), Explanation(levels(looked.map[0].cpu().numpy()), blocks)

    def _load(self) -> tuple[ConvNet, Classifier]:
        if self._loaded is None:
            config, network = directory.load(self._model)
            self._loaded = network, for_inference(network, config).to(self._device)
        return self._loaded


def _scores(logits: Tensor) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = logits[0].softmax(dim=0).cpu().numpy()
    return scores
