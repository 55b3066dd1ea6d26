"""The estimator, its search space, its metrics and its file: a small neural network by PyTorch."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from sklearn import metrics as sk
from torch import nn

from .features import CATEGORIES, NUMBERS

OUTPUT = "late_probability"
PRIMARY = "roc_auc"
HIGHER_IS_BETTER = {"roc_auc": True, "brier": False, "accuracy": True, "precision": True}
DEFAULT = "network"
SIMPLE = "linear"
SEARCH_SPACE: dict[str, dict[str, Any]] = {
    "network": {"learning_rate": (0.0005, 0.01, "log"), "width": (16, 128, "log")},
    "linear": {"learning_rate": (0.0005, 0.01, "log")},
}


class Network(nn.Module):
    """An embedding a category, the numbers standardised, and one hidden layer (none when WIDTH is 0)."""

    def __init__(self, levels: list[list[str]], width: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(len(known) + 1, 4) for known in levels)
        self.register_buffer("mean", torch.zeros(len(NUMBERS)))
        self.register_buffer("scale", torch.ones(len(NUMBERS)))
        size = 4 * len(levels) + 2 * len(NUMBERS)
        layers = [nn.Linear(size, width), nn.ReLU(), nn.Linear(width, 1)] if width else [nn.Linear(size, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        missing = torch.isnan(numbers)
        known = torch.where(missing, 0.0, (numbers - self.mean) / self.scale)
        embedded = [table(codes[:, i]) for i, table in enumerate(self.embed)]
        return self.layers(torch.cat([*embedded, known, missing.float()], dim=1)).squeeze(1)


class Classifier:
    """Fits a Network; an unseen category has an embedding of its own."""

    def __init__(self, width: int = 32, learning_rate: float = 0.003, epochs: int = 5, seed: int = 0) -> None:
        self.settings = {"width": width, "learning_rate": learning_rate, "epochs": epochs, "seed": seed}

    def fit(self, inputs: pd.DataFrame, target: pd.Series) -> Self:
        torch.manual_seed(self.settings["seed"])
        torch.set_num_threads(1)  # the same sums in the same order, on any machine
        self.levels = [sorted(inputs[name].unique()) for name in CATEGORIES]
        self.network = Network(self.levels, self.settings["width"])
        codes, numbers = self.encode(inputs)
        self.network.mean.copy_(torch.nan_to_num(torch.nanmean(numbers, dim=0)))
        self.network.scale.copy_(torch.tensor(inputs[NUMBERS].std().fillna(1).clip(lower=1e-3).to_numpy()))
        truth = torch.tensor(target.to_numpy(dtype="float32"))
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.settings["learning_rate"])
        for _ in range(self.settings["epochs"]):
            for batch in torch.randperm(len(truth)).split(256):
                optimizer.zero_grad()
                loss = nn.functional.binary_cross_entropy_with_logits(
                    self.network(codes[batch], numbers[batch]), truth[batch]
                )
                loss.backward()
                optimizer.step()
        return self

    def predict_proba(self, inputs: pd.DataFrame) -> np.ndarray:
        with torch.no_grad():
            late = torch.sigmoid(self.network(*self.encode(inputs))).double().numpy()
        return np.column_stack([1 - late, late])

    def encode(self, inputs: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
        codes = [
            pd.Categorical(inputs[name], known).codes.astype("int64") + 1
            for name, known in zip(CATEGORIES, self.levels, strict=True)
        ]
        return torch.tensor(np.column_stack(codes)), torch.tensor(inputs[NUMBERS].to_numpy(dtype="float32"))


def make(family: str = DEFAULT, seed: int = 0, **parameters: Any) -> Classifier:
    """Return an unfitted estimator of FAMILY, one of SEARCH_SPACE; `parameters` override its defaults."""
    if family not in SEARCH_SPACE:
        raise ValueError(f"family is {family!r}, must be one of {', '.join(SEARCH_SPACE)}")
    return Classifier(seed=seed, **({"width": 0} if family == "linear" else {}), **parameters)


def predict(model: Any, inputs: pd.DataFrame) -> np.ndarray:
    """Return the probability that the target is true, shape (n_rows,), 0 to 1."""
    return model.predict_proba(inputs)[:, 1]


def metrics(truth: pd.Series, predicted: np.ndarray) -> dict[str, float]:
    """Return the metrics of HIGHER_IS_BETTER for predictions on rows whose target is known."""
    positive = predicted >= 0.5
    return {
        "roc_auc": float(sk.roc_auc_score(truth, predicted)),
        "brier": float(sk.brier_score_loss(truth, predicted)),
        "accuracy": float(sk.accuracy_score(truth, positive)),
        "precision": float(sk.precision_score(truth, positive, zero_division=0)),
    }


def baseline(truth: pd.Series, n_rows: int) -> np.ndarray:
    """Return the trivial prediction to beat, shape (n_rows,): the rate of the training rows, 0 to 1."""
    return np.full(n_rows, truth.mean())


def save(model: Classifier, file: Path) -> None:
    """Write weights, categories and settings to FILE: tensors and plain values, no code."""
    torch.save({"weights": model.network.state_dict(), "levels": model.levels, "settings": model.settings}, file)


def load(file: Path) -> Classifier:
    """Return the model in FILE; with weights_only PyTorch refuses whatever could run."""
    content = torch.load(file, weights_only=True)
    model = Classifier(**content["settings"])
    model.levels = content["levels"]
    model.network = Network(model.levels, model.settings["width"])
    model.network.load_state_dict(content["weights"])
    return model
