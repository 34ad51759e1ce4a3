"""What the training scans look like to the network: what a new scan's distance is measured from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def fit_familiar(features: NDArray[np.float64]) -> dict[str, Any]:
    """Mean, precision and Mahalanobis distances of training scans' features [N, C]: plain JSON values.

    features: the penultimate layer's. There are often fewer scans than features, so the covariance is shrunk
    towards the average variance (Ledoit & Wolf 2004, doi:10.1016/S0047-259X(03)00096-4).
    """
    assert features.ndim == 2
    assert len(features) > 1
    from sklearn.covariance import LedoitWolf  # a second to import, for every process that trains

    fitted = LedoitWolf().fit(features)
    covariance = fitted.covariance_ + np.eye(features.shape[1]) * 1e-9
    precision = np.linalg.inv(covariance)
    away = features - fitted.location_
    distances = np.sqrt(np.einsum("nc,cd,nd->n", away, precision, away))
    return {
        "mean": fitted.location_.tolist(),
        "precision": precision.tolist(),
        "train_distances": distances.tolist(),
    }
