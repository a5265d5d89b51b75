"""The figure of an alignment: projections of the tokens, and comparisons of them."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from theworld.data.schema import IMAGE_SUFFIXES
from theworld.utils.imports import require
from theworld.utils.io import write_json

from .alignment import KINDS, AlignmentTokens, alignment_metrics, cosine, distance, pairwise
from .figures import FIGURE_ENDINGS, check_figure_ending, save_figure

COLOURS = {"image": "#2e86ab", "text": "#8d99a6", "world": "#d1495b"}
PAIR_COLOURS = {"world-image": "#6a4c93", "world-text": "#d1495b", "image-text": "#2e86ab"}
LINES = "#4b5563"
PAIRS = tuple(combinations(KINDS, 2))
FRAMES = "autumn"  # matplotlib's colours from red (now) to yellow (last step)


def draw_alignment(tokens: AlignmentTokens, metrics: dict[str, Any], count: int = 500, seed: int = 0) -> Any:
    """A matplotlib figure of six panels, on the sample of `alignment_metrics(tokens, count, seed)`.

    Raises:
        ImportError: scikit-learn or matplotlib are not installed.
    """
    sample = tokens.sample(count, seed)
    frames = tokens.frames_of_sample(count, seed).numpy()
    joined = np.concatenate([sample[kind].numpy() for kind in KINDS])
    figure = require("analysis", "matplotlib.figure").Figure(figsize=(15, 9), layout="constrained")
    panels = figure.subplots(2, 3)
    pca = require("analysis", "sklearn.decomposition").PCA(2, random_state=seed)
    _scatter(panels[0, 0], pca.fit_transform(joined), frames)
    first, second = 100 * pca.explained_variance_ratio_
    panels[0, 0].set_title(f"PCA ({first:.0f} % + {second:.0f} % of the variance)")
    _scatter(panels[0, 1], tsne(joined, seed), frames)
    panels[0, 1].set_title("t-SNE")
    panels[0, 0].legend(frameon=False, fontsize=9)
    _histograms(panels[1, 0], {f"{a}-{b}": pairwise(sample[a], sample[b], cosine).numpy() for a, b in PAIRS})
    panels[1, 0].set_title("cosine similarity of pairs")
    _histograms(panels[1, 1], {f"{a}-{b}": pairwise(sample[a], sample[b], distance).numpy() for a, b in PAIRS})
    panels[1, 1].set_title("L2 distance of pairs")
    _magnitudes(panels[0, 2], {kind: sample[kind].norm(dim=-1).numpy() for kind in KINDS})
    _table(panels[1, 2], metrics)
    figure.suptitle(
        f"Tokens as they enter the language model: {metrics['sampled']} of each kind, {metrics['width']} wide",
        fontsize=13,
    )
    return figure


def tsne(points: np.ndarray[Any, Any], seed: int = 0) -> np.ndarray[Any, Any]:
    """(n, D) -> (n, 2); the same for the same seed."""
    perplexity = min(30.0, (len(points) - 1) / 3)
    manifold = require("analysis", "sklearn.manifold")
    return manifold.TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)


def save_alignment(
    tokens: AlignmentTokens, output: str | Path, about: dict[str, Any], count: int = 500, seed: int = 0
) -> dict[str, Any]:
    """Write the figure `figure_path(output)`, and the numbers beside it as JSON; returns the content of the JSON.

    Args:
        output: A folder, or the path of the figure.
        about: Source of the tokens; the first keys of the JSON.
        count: Largest number of tokens of each kind.
        seed: Seed of the sample and of t-SNE.

    Raises:
        ValueError: `output` is an image, but not PNG, SVG or PDF.
    """
    path = figure_path(output)
    metrics = alignment_metrics(tokens, count, seed)
    save_figure(draw_alignment(tokens, metrics, count, seed), path, dpi=120)
    described = {**about, "seed": seed, **metrics}
    write_json(path.with_suffix(".json"), described)
    return described


def figure_path(output: str | Path) -> Path:
    """`output` if it is the path of a figure, and otherwise `alignment.png` in that folder.

    Raises:
        ValueError: `output` is an image, but not PNG, SVG or PDF.
    """
    suffix = Path(output).suffix.lower()
    if suffix in (*IMAGE_SUFFIXES, *FIGURE_ENDINGS):
        check_figure_ending(output)
        return Path(output)
    return Path(output) / "alignment.png"


def _scatter(panel: Any, points: np.ndarray[Any, Any], frames: np.ndarray[Any, Any]) -> None:
    """Image and text tokens in one colour each, world tokens in one colour per latent frame."""
    count = len(points) // len(KINDS)
    parts = {kind: points[index * count : (index + 1) * count] for index, kind in enumerate(KINDS)}
    style = {"s": 16, "alpha": 0.75, "linewidths": 0}
    for kind in ("text", "image"):
        panel.scatter(*parts[kind].T, color=COLOURS[kind], label=kind, **style)
    last = max(1, int(frames.max()))
    colours = require("analysis", "matplotlib").colormaps[FRAMES]
    for frame in range(int(frames.max()) + 1):
        label = "world, now" if frame == 0 else f"world, step +{frame}"
        shown = label if frame in (0, 1, last) else None
        panel.scatter(*parts["world"][frames == frame].T, color=colours(0.8 * frame / last), label=shown, **style)
    panel.set_xticks([])
    panel.set_yticks([])


def _histograms(panel: Any, values: dict[str, np.ndarray[Any, Any]]) -> None:
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=60)
    for pair, numbers in values.items():
        label = f"{pair}: {numbers.mean():.2f}"
        panel.hist(
            numbers, edges, density=True, histtype="stepfilled", alpha=0.3, color=PAIR_COLOURS[pair], label=label
        )
        panel.hist(numbers, edges, density=True, histtype="step", color=PAIR_COLOURS[pair])
    panel.set_yticks([])
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.legend(frameon=False, fontsize=9, title="pairs: mean")


def _magnitudes(panel: Any, values: dict[str, np.ndarray[Any, Any]]) -> None:
    parts = panel.violinplot(list(values.values()), showmedians=True, widths=0.8)
    for body, kind in zip(parts["bodies"], values, strict=True):
        body.set_facecolor(COLOURS[kind])
        body.set_alpha(0.6)
    for lines in ("cbars", "cmins", "cmaxes", "cmedians"):
        parts[lines].set(color=LINES, linewidth=1.2)
    panel.set_xticks(range(1, 1 + len(values)), list(values))
    panel.set_ylim(bottom=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title("magnitude (L2 norm)")


def _table(panel: Any, metrics: dict[str, Any]) -> None:
    """The numbers that are in no other panel."""
    place = metrics["cosine_at_place"]
    rows = [(f"effective rank, {kind}", f"{metrics['effective_rank'][kind]:.1f}") for kind in KINDS]
    rows += [(f"centroids, {pair}: L2", f"{value:.2f}") for pair, value in metrics["centroid_distance"].items()]
    rows += [(f"centroids, {pair}: cosine", f"{value:.2f}") for pair, value in metrics["centroid_cosine"].items()]
    names = {"same_place": "same place", "other_place": "another place", "other_image": "another image"}
    rows += [
        (f"centred world-image cosine, {names[name]}", "-" if value is None else f"{value:.2f}")
        for name, value in place.items()
    ]
    panel.set_axis_off()
    table = panel.table(cellText=rows, colWidths=[0.78, 0.22], loc="center", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(9.5)
    table.scale(1, 1.45)
    for (_, column), cell in table.get_celld().items():
        cell.set_edgecolor("#d5dae0")
        cell.get_text().set_horizontalalignment("right" if column else "left")


__all__ = ["draw_alignment", "figure_path", "save_alignment", "tsne"]
