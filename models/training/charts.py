"""Pictures of a training: its curves, who was taken for whom, and the worst mistakes."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from models import files
from models.training.evaluate import Evaluation
from models.training.fit import Epoch

MOST_LABELLED_CLASSES = 40  # beyond, a confusion matrix has no room for names
WORST, COLUMNS = 20, 5


def draw_curves(path: Path, history: Sequence[Epoch]) -> None:
    """Loss and top-1 by epoch, in training and held-out, as a PNG."""
    figure = Figure((9, 3.6), layout="constrained")
    loss, top1 = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in history]
    loss.plot(epochs, [epoch.loss for epoch in history], label="training (smoothed labels, augmented)")
    loss.plot(epochs, [epoch.held_out_loss for epoch in history], label="held out (averaged weights)")
    top1.plot(epochs, [100 * epoch.top1 for epoch in history])
    top1.plot(epochs, [100 * epoch.held_out_top1 for epoch in history])
    for axes, name in ((loss, "cross-entropy"), (top1, "top-1, %")):
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    loss.legend()
    _save(figure, path)


def draw_confusion(path: Path, evaluation: Evaluation) -> None:
    """Shares of each class's pictures (rows) by answer (columns), as a PNG."""
    counts = evaluation.confusion.double()
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp_min(1)).numpy()
    classes = len(evaluation.labels)
    edge = 3 + 0.3 * min(classes, MOST_LABELLED_CLASSES)
    figure = Figure((edge + 1, edge), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the class's pictures")
    axes.set(xlabel="answer", ylabel="class")
    if classes <= MOST_LABELLED_CLASSES:
        axes.set_xticks(range(classes), evaluation.labels, rotation=90)
        axes.set_yticks(range(classes), evaluation.labels)
        for row, column in zip(*counts.numpy().nonzero(), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=8)
    _save(figure, path)


def draw_mistakes(path: Path, evaluation: Evaluation, indices: Sequence[int], pixels: np.ndarray) -> None:
    """The pictures uint8 [N, S, S, 3] of `indices`, each under its answer and its class, as a PNG."""
    rows = max(1, -(-len(indices) // COLUMNS))
    figure = Figure((2 * COLUMNS, 2.5 * rows), layout="constrained")
    for axes in figure.subplots(rows, COLUMNS, squeeze=False).flat:
        axes.axis("off")
    for axes, index, picture in zip(figure.axes, indices, pixels, strict=False):
        answer, target = int(evaluation.answers[index]), int(evaluation.targets[index])
        score = float(evaluation.scores[index, answer])
        axes.imshow(picture)
        axes.set_title(f"{evaluation.labels[answer]} {score:.0%}\nis {evaluation.labels[target]}", fontsize=8)
    if not indices:
        figure.suptitle("no mistakes on the held-out pictures")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    files.write(path, png.getvalue())
