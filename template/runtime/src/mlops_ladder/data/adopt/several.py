"""What the files say where the target is one of several classes, in the place of what they say of two."""

from __future__ import annotations

import math

from . import modules
from .limits import Fit, chance, put
from .profile import Plan

HEAD = """
# The labels, in the order of the columns of a prediction: that in which they sort.
CLASSES = sorted(set(SCHEMA[TARGET]["values"]))
"""
PREDICT = '''def predict(model: Any, inputs: pd.DataFrame) -> np.ndarray:
    """Return the probability of each of CLASSES, shape (n_rows, n_classes), 0 to 1; 0 of one that training did not have."""
    probabilities = np.zeros((len(inputs), len(CLASSES)))
    probabilities[:, pd.Index(CLASSES).get_indexer(model.classes_)] = model.predict_proba(inputs)
    return probabilities


def metrics(truth: pd.Series, predicted: np.ndarray) -> dict[str, float]:
    """Return the metrics of HIGHER_IS_BETTER for predictions on rows whose target is known."""
    codes, chosen, n = pd.Index(CLASSES).get_indexer(truth), predicted.argmax(axis=1), len(CLASSES)
    confusion = np.bincount(codes * n + chosen, minlength=n * n).reshape(n, n)  # rows: truth
    n_true, n_chosen = confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = 2 * confusion.diagonal() / np.maximum(n_true + n_chosen, 1)
    likelihood = predicted[np.arange(len(codes)), codes]
    return {
        "macro_f1": float(f1[n_true > 0].mean()),  # over the labels that occur: a slice may lack one
        "accuracy": float(np.mean(codes == chosen)),
        "log_loss": float(-np.log(np.clip(likelihood, 1e-15, None)).mean()),
        "brier": float(np.mean((predicted**2).sum(axis=1) - 2 * likelihood + 1)),  # over all classes: 0 to 2
    }


def baseline(truth: pd.Series, n_rows: int) -> np.ndarray:
    """Return the trivial prediction to beat, shape (n_rows, n_classes): the shares of the training rows."""
    shares = truth.value_counts(normalize=True).reindex(CLASSES, fill_value=0)
    return np.tile(shares.to_numpy(), (n_rows, 1))
'''


def model(text: str) -> str:
    """Return model.py of two labels with several in their place."""
    text = put(text, r"^from \.features import", "from .data import SCHEMA, TARGET\nfrom .features import")
    text = put(text, r"^from sklearn import metrics as sk\n", "")
    text = put(text, r'^PRIMARY = "roc_auc"', 'PRIMARY = "macro_f1"')
    measures = '{"macro_f1": True, "accuracy": True, "log_loss": False, "brier": False}'
    text = put(text, r"^HIGHER_IS_BETTER = [^\n]*\n", f"HIGHER_IS_BETTER = {measures}\n{HEAD}")
    return put(text, r"^def predict\(.*?(?=\n\ndef save)", PREDICT)


def success(fit: Fit) -> str:
    """Return the lines of conf/success.yml under `metrics`."""
    reached, trivial = fit.metrics["macro_f1"], fit.baseline["macro_f1"]
    least = max(0.0, math.floor((trivial + (reached - trivial) * 0.6) * 100) / 100)
    margin = max(0.0, math.floor((reached - trivial) * 50) / 100)
    gain = max(0.0, (fit.baseline["brier"] - fit.metrics["brier"]) * 0.3)
    return (
        f"  macro_f1: {{min: {least:g}, margin: {margin:g}}} # a first model reached {reached:.3f}; the commonest label: {trivial:.3f}\n"
        f"  brier: {{margin: {gain:.1g}}} # over all labels, below that of their shares, {fit.baseline['brier']:.3f}; a first model: {fit.metrics['brier']:.3f}\n"
    )


def release(text: str, fit: Fit, n_test: int) -> str:
    """Return conf/release.yml with limits of several classes; sizes are set already."""
    least = chance(n_test)
    text = put(
        text,
        r"^    roc_auc: \{measured: 0, surely: [^\n]*",
        f"    macro_f1: {{measured: 0, surely: -{least}}} # no worse than what is in use, and hardly by more than chance moves it",
    )
    text = put(
        text,
        r"^    brier: \{measured: -0.001, surely: [^\n]*",
        f"    brier: {{measured: -0.005, surely: -{least}}} # better labels must not be paid for with worse probabilities",
    )
    worst = max(0.0, math.floor((fit.gaps.get("slice", fit.metrics["macro_f1"]) * 0.6) * 100) / 100)
    text = put(
        text,
        r"^  metrics: \{roc_auc: \{min: 0.55\}\} #[^\n]*",
        f"  metrics: {{macro_f1: {{min: {worst:g}}}}} # somewhat below the worst slice of a first model",
    )
    return put(text, r"^  decide: 0.3 #[^\n]*", "  decide: 0.5 # of no effect: of several classes the likeliest counts")


def monitoring(text: str) -> str:
    for source, given, threshold in (("labels", 0.01, 0.03), ("labels by slice", 0.02, 0.06), ("estimate", 0.02, 0.06)):
        text = put(
            text, rf"(source: {source}, threshold: ){given},", f"\\g<1>{threshold},"
        )  # a macro F1 moves more by chance than an AUC
    return text


def retraining(text: str) -> str:
    return put(text, r"^  worse: \{roc_auc: 0.01, brier: 0.01\}", "  worse: {macro_f1: 0.03, brier: 0.02}")


def target_test(plan: Plan) -> tuple[str, str, str]:
    """Return name, given values and read values of the test of tests/test_data.py."""
    labels = plan.classes[:2]
    shown = f"[{', '.join(map(modules.quoted, labels))}]"
    return "a_label_is_as_the_files_have_it", shown, shown
