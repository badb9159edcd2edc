"""A part of a data set that is kept out of training."""

from __future__ import annotations

import numpy as np

_HELD_OUT = 0.2  # of the digits 360, of which one is a quarter of a percent


def split(
    images: np.ndarray, labels: np.ndarray, *, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Images and labels to train on, and those of a fifth of every class, which are held out."""
    from sklearn.model_selection import train_test_split

    parts = train_test_split(
        images, labels, test_size=_HELD_OUT, stratify=labels, random_state=seed
    )
    training_images, held_out_images, training_labels, held_out_labels = parts
    return (training_images, training_labels), (held_out_images, held_out_labels)
