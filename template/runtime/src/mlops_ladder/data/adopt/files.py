"""The text of each file of the project for a plan: the template's own, with what is about the table in the flights' place."""

import json
import math
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

from . import modules, several
from .limits import Fit, allowed, limit, put, scaled, significant
from .profile import USED, Plan, slug

PACKAGE, PROJECT = "the_package_of_the_project", "The Project As It Is Called"  # as tools/build_adopt.py renders them
PROBLEMS = ("classification", "multiclass", "regression")


def texts(package: str, project_name: str) -> dict[str, dict[str, str]]:
    """Return the template's text of each file by path and problem, with the project's own names.

    What several classes start from is what two do.
    """
    stored = json.loads(resources.files(__package__).joinpath("texts.json").read_text(encoding="utf-8"))
    names = {PACKAGE.replace("_", "-"): package.replace("_", "-"), PACKAGE: package, PROJECT: project_name}
    return {
        path.replace("PACKAGE", package): {problem: named(text, names) for problem, text in by_problem.items()}
        | {"multiclass": named(by_problem["classification"], names)}
        for path, by_problem in stored.items()
    }


def named(text: str, names: dict[str, str]) -> str:
    for placeholder, name in names.items():
        text = text.replace(placeholder, name)
    return text


def output(plan: Plan) -> str:
    """Return what a prediction is called: no column's name."""
    name = f"{slug(plan.target)}_probability" if plan.positive else f"predicted_{slug(plan.target)}"
    return f"model_{name}" if name in {column.name for column in plan.columns} else name


def model(text: str, plan: Plan, fit: Fit | None) -> str:
    text = put(text, r'^OUTPUT = "\w+"', f'OUTPUT = "{output(plan)}"')
    text = text.replace(", minutes.", f", in the unit of {plan.target}.")
    text = re.sub(r"^UNIT = .*\n", "", text, flags=re.MULTILINE)  # that of the flights; a table does not say its own
    if plan.classes:
        text = several.model(text)
    if plan.texts:
        text = of_words(text)
    if plan.n_rows < 5_000:
        least = max(2, plan.n_rows // 100)
        text = put(text, "min_frequency=50", f"min_frequency={least}")
        high = max(3, min(200, plan.n_rows // 20))
        text = put(
            text, r'"min_samples_leaf": \(10, 200, "log"\)', f'"min_samples_leaf": ({min(10, high - 1)}, {high}, "log")'
        )
        if plan.n_rows < 2_000:
            text = put(
                text, r'"min_samples_leaf": 20, "n_jobs"', f'"min_samples_leaf": {max(2, plan.n_rows // 100)}, "n_jobs"'
            )
    for family in plan.weak:
        text = put(text, rf'^    "{family}": \{{[^\n]*\}},\n', "")
    left = [family for family in ("boosting", "forest", "linear") if family not in plan.weak]
    text = put(text, r'^DEFAULT = "boosting"', f'DEFAULT = "{left[0]}"')
    text = put(text, r'^SIMPLE = "linear"', f'SIMPLE = "{left[-1]}"')
    return text


WORDS = '''def words(n_words: int) -> list[tuple[TfidfVectorizer, str]]:
    """Return an encoder for each of TEXTS: its N_WORDS commonest words, each the heavier the fewer rows have it."""
    return [(TfidfVectorizer(max_features=n_words, sublinear_tf=True), name) for name in TEXTS]


'''


def of_words(text: str) -> str:
    """Return model.py with free texts among its inputs, as TF-IDF: few words for trees, which take a full table."""
    text = put(text, r"^from \.features import CATEGORIES, NUMBERS", "from .features import CATEGORIES, NUMBERS, TEXTS")
    text = put(
        text,
        r"^from sklearn\.impute",
        "from sklearn.feature_extraction.text import TfidfVectorizer\nfrom sklearn.impute",
    )
    text = put(text, r"(unknown_value=-1\)|sparse_output=False\)), CATEGORIES\)", "\\g<1>, LABELS)", 2)
    text = put(
        text,
        r'^(            \("passthrough", NUMBERS\),)\n',
        "\\g<1>\n            *words(100),\n            sparse_threshold=0,\n",
    )
    text = put(text, r"^(        \(make_pipeline\(SimpleImputer[^\n]*NUMBERS\),)\n", "\\g<1>\n        *words(2_000),\n")
    labels = "LABELS = [name for name in CATEGORIES if name not in TEXTS]"
    return put(text, r"^def make\(", f"{labels}\n\n\n{WORDS}def make(")


def test_data(text: str, plan: Plan, fit: Fit | None) -> str:
    text = put(text, r"\n\n\ndef test_(?:late_begins|the_target_is)\w+\(.*?(?=\n\n\n)", target_test(plan))
    return text


def target_test(plan: Plan) -> str:
    if plan.classes:
        name, values, read = several.target_test(plan)
    elif plan.positive:
        name, given, read = (
            "labels_of_the_files_become_true_and_false",
            [plan.positive, plan.negative or ""],
            "[True, False]",
        )
        values = f"[{', '.join(map(modules.quoted, given))}]"
    else:
        name, values, read = "the_target_is_as_the_files_have_it", "[1.5, 2.5]", "[1.5, 2.5]"
    order = '\n    raw[data.KEY] = ["a", "b"]' if not plan.made_key else ""
    return (
        f"\n\n\ndef test_{name}(tmp_path: Path) -> None:\n"
        f'    raw = pd.read_parquet(next(SAMPLE.glob("*.parquet"))).head(2){order}\n'
        f'    raw.assign(**{{data.TARGET: {values}}}).to_parquet(tmp_path / "two.parquet")\n'
        f"    assert sorted(data.read(tmp_path)[data.TARGET]) == sorted({read})"
    )


def test_features(text: str, plan: Plan, fit: Fit | None) -> str:
    made = modules.parts(plan)
    text = put(text, r"\n\n\ndef test_hour_weekday_and_plane_age\w+\(.*\Z", "\n")
    if not made:
        return text
    column = next(iter(made.values()))[0]
    names = [name for name, (of, _) in made.items() if of == column]
    expected = {"hour": "17.75", "weekday": "5", "month": "6", "year": "2013"}
    values = ", ".join(expected[made[name][1]] for name in names)
    return text.rstrip("\n") + (
        "\n\n\ndef test_parts_of_a_known_date(rows: pd.DataFrame) -> None:\n"
        "    row = rows.head(1).copy()\n"
        f'    row[{modules.quoted(column)}] = pd.Timestamp("2013-06-01 17:45")  # a Saturday\n'
        f"    assert features.build(row)[[{', '.join(map(modules.quoted, names))}]].iloc[0].tolist() == [{values}]\n"
    )


def test_model(text: str, plan: Plan, fit: Fit | None) -> str:
    n = max(50, min(3_000, plan.n_rows // 2 - 1))
    text = put(
        text,
        r"^N_ROWS = 3_000  # [^\n]*",
        f"N_ROWS = {modules.number(n)}  # at most: few enough for all families in seconds",
    )
    text = text.replace(".sample(N_ROWS, random_state=0)", ".sample(frac=1, random_state=0).head(N_ROWS)")
    return text


def success(text: str, plan: Plan, fit: Fit | None) -> str:
    assert fit
    if plan.classes:
        lines = several.success(fit)
    elif plan.positive:
        auc, gain = fit.metrics["roc_auc"], fit.baseline["brier"] - fit.metrics["brier"]
        least = math.floor((0.5 + (auc - 0.5) * 0.6) * 100) / 100
        lines = f"  roc_auc: {{min: {least:g}, margin: {max(0.0, least - 0.52):.2g}}} # a first model reached {auc:.3f}; 0.5 is a coin\n"
        lines += f"  brier: {{margin: {max(0.0, gain * 0.3):.1g}}} # below the base rate's own score, {fit.baseline['brier']:.3f}; a first model: {fit.metrics['brier']:.3f}\n"
    else:
        gain = fit.baseline["rmse"] - fit.metrics["rmse"]
        lines = f"  rmse: {{margin: {significant(max(0.0, gain * 0.4))}}} # below that of the mean, {fit.baseline['rmse']:.4g}; a first model: {fit.metrics['rmse']:.4g}\n"
        lines += f"  r2: {{min: {max(0.0, math.floor(fit.metrics['r2'] * 50) / 100):.2g}}} # share of the variance; a first model reached {fit.metrics['r2']:.3f}\n"
    return put(text, r"^metrics:\n.*\Z", f"metrics:\n{lines}")


def training(text: str, plan: Plan, fit: Fit | None) -> str:
    family = next(family for family in ("boosting", "forest", "linear") if family not in plan.weak)
    text = put(text, r"^family: boosting #", f"family: {family} #")
    return put(text, r"^(model: .*)-(?:late|delay) #", f"\\g<1>-{slug(plan.target).replace('_', '-')} #").replace(
        ": three months of a year", ""
    )


def validation(text: str, plan: Plan, fit: Fit | None) -> str:
    text = put(text, r"which ends in 2013", "which ends when it was taken")
    least = min(1_000, max(50, plan.n_rows // 4))
    if plan.made_key and not plan.key_of and plan.repeated < 0.5:
        most = math.ceil(plan.repeated * 150 + 5) / 100
        text = put(
            text,
            r"^as_of:",
            f"max_repeated: {most:g} # share of rows that say what another one says, the key aside: `read` makes the key "
            "of the row, so a file\n  # that came twice shows by nothing else\nas_of:",
        )
    most = max((column.missing / plan.n_rows for column in plan.of(*USED)), default=0.0)
    if most > 0.4:
        share = min(0.99, math.ceil((most + 0.05) * 20) / 20)
        text = put(
            text,
            r"^max_missing: 0.5 # [^\n]*",
            f"max_missing: {share:g} # of a column; one lacks {most:.0%} as adopted",
        )
    return put(
        text,
        r"^min_rows: 1000 # [^\n]*",
        f"min_rows: {least} # a quarter of the table, at most 1000: with fewer, two models differ by chance alone",
    )


def data_conf(text: str, plan: Plan, fit: Fit | None) -> str:
    folder = "data/adopted" if plan.n_rows > plan.n_sample else "data/sample"
    return put(
        text,
        r"^  url: data/sample # [^\n]*",
        f"  url: {folder} # the rows of {plan.name} that `adopt` brought; say here where new ones come from",
    )


def release(text: str, plan: Plan, fit: Fit | None) -> str:
    assert fit
    n_test = int(min(plan.n_rows, plan.n_sample) * 0.25)
    text = put(text, r"^  rows: 500 #", f"  rows: {min(500, max(20, n_test * 3 // 4))} #")
    text = put(text, r"^  rows: 1_000 #", f"  rows: {min(1_000, n_test) if n_test < 1_000 else '1_000'} #")
    small = max(10, min(200, n_test // 6))
    text = put(text, r"^  rows: 200 #", f"  rows: {small} #", 2)
    if plan.classes:
        text = several.release(text, fit, n_test)
    elif plan.positive:
        text = put(
            text,
            r"^  metrics: \{roc_auc: \{min: 0.55\}\} #[^\n]*",
            f"  metrics: {{roc_auc: {{min: {slice_auc(fit):g}}}}} # 0.5 is a coin; small slices vary much",
        )
        text = put(
            text,
            r"^  decide: 0.3 #[^\n]*",
            f"  decide: {decide(fit):g} # from this probability on a row counts as {plan.target}: half as much again as the base rate",
        )
    if plan.problem != "regression":
        bias = allowed(0.08, fit, "bias")
        text = put(text, r"^    bias: 0.08 #[^\n]*", f"    bias: {bias} # mean prediction minus mean truth")
        for name, least in (("true_positive_rate", 0.4), ("false_positive_rate", 0.35)):
            reached = f"a first model comes to {fit.gaps.get(name, 0):.2f}: look why, and lower it if you can"
            text = put(text, rf"^    {name}: [\d.]+ #[^\n]*", f"    {name}: {allowed(least, fit, name)} # {reached}")
        return text
    unit = f"in the unit of {plan.target}"
    text = put(
        text,
        r"surely: -0.5\} # minutes; no worse than what is in use",
        f"surely: -{scaled(0.5, fit)}}} # {unit}; no worse than what is in use",
    )
    text = put(
        text,
        r"mae: \{measured: -0.2, surely: -0.5\} # minutes;[^\n]*",
        f"mae: {{measured: -{scaled(0.2, fit)}, surely: -{scaled(0.5, fit)}}} # squared errors are mostly those of a few rows",
    )
    text = put(
        text,
        r"max: 40\}\} # minutes;[^\n]*",
        f"max: {significant(1.5 * max(fit.gaps.get('slice', 0), fit.metrics['mae']))}}}}} # half as much again as in the worst slice of a first model",
    )
    text = put(
        text,
        r"^  decide: 15 #[^\n]*",
        f"  decide: {significant(fit.rate, 3)} # from which a row counts as high; for rates, which one may ask for below",
    )
    text = put(
        text,
        r"^    bias: 8 #[^\n]*",
        f"    bias: {allowed(limit(16, fit), fit, 'bias')} # {unit}; mean prediction minus mean truth",
    )
    error = allowed(limit(20, fit), fit, "mean_absolute_error")
    return put(text, r"^    mean_absolute_error: 15 # minutes;", f"    mean_absolute_error: {error} #")


def slice_auc(fit: Fit) -> float:
    """Return what the AUC of a slice must be: somewhat below that of the worst slice of the first model."""
    worst = min(fit.gaps.get("slice", 1.0) - 0.1, 0.5 + max(0.0, fit.metrics["roc_auc"] - 0.5) * 0.3)
    return max(0.3, math.floor(worst * 100) / 100)


def decide(fit: Fit) -> float:
    """Return the probability from which a row counts as positive, in rates between groups."""
    return float(f"{min(0.9, max(0.01, fit.rate * 1.5)):.2g}")


def experiment(text: str, plan: Plan, fit: Fit | None) -> str:
    assert fit
    if plan.problem != "regression":
        return text
    text = put(text, r"^margin: 1.0 # minutes;", f"margin: {scaled(1, fit)} # in the unit of {plan.target};")
    return put(text, r"^effect: 1.0 # minutes;", f"effect: {scaled(1, fit)} # likewise;")


def monitoring(text: str, plan: Plan, fit: Fit | None) -> str:
    assert fit
    if plan.classes:
        return several.monitoring(text)
    if plan.positive:
        return text
    for threshold in (2, 4, 3, 8, 15):
        text = put(
            text,
            rf"(source: (?:labels|labels by slice|estimate|predictions and labels|groups), (?:metric: \w+, )?)threshold: {threshold},",
            f"\\g<1>threshold: <{scaled(threshold, fit)}>,",
            2 if threshold == 4 else 1,
        )
    text = text.replace("threshold: <", "threshold: ").replace(">, owner", ", owner")
    return (
        text.replace("# minutes that", "# what")
        .replace("has got worse by", "has got worse by, in its unit,")
        .replace("# minutes; ", "# in the unit of the target; ")
    )


def retraining(text: str, plan: Plan, fit: Fit | None) -> str:
    assert fit
    rows = plan.n_rows // 3
    text = put(
        text,
        r"^  rows: 20_000 # [^\n]*",
        f"  rows: {modules.number(max(50, int(float(f'{rows:.1g}'))))} # a third of what the first model learned from",
    )
    text = put(text, r"^least_rows: 500 #", f"least_rows: {min(500, max(20, plan.n_rows // 20))} #")
    if plan.classes:
        return several.retraining(text)
    if plan.positive:
        return text
    text = put(
        text,
        r"\{rmse: 1.5, mae: 1\} # minutes;",
        f"{{rmse: {scaled(1.5, fit)}, mae: {scaled(1, fit)}}} # in the unit of {plan.target};",
    )
    return put(
        text, r"^  mean_shift: 10 # minutes;", f"  mean_shift: {scaled(10, fit)} # in the unit of {plan.target};"
    )


def prediction_log(text: str, plan: Plan, fit: Fit | None) -> str:
    return put(
        text, r"^entity: tail_number #", "entity: null #" if plan.made_key else f"entity: {modules.quoted(plan.key)} #"
    )


def production(text: str, plan: Plan, fit: Fit | None) -> str:
    return put(
        text,
        r"^masked: \[tail_number\][^\n]*",
        "masked: [] # columns that say who it is about; `adopt` left those that it saw out",
    )


def catalog(text: str, plan: Plan, fit: Fit | None) -> str:
    text = put(
        text,
        r"what: real departures[^\n]*",
        f"what: a sample of {plan.name}, by which the tests run; columns that look personal are not in it",
    )
    text = re.sub(r"masked: \[tail_number\][^\n]*", "masked: []", text)
    text = put(text, r"^    class: public$", "    class: internal")
    if plan.n_rows <= plan.n_sample:
        return text
    whole = "  adopted:\n    what: all rows of {0}, as `adopt` converted them; what `ingest` gathers\n    path: data/adopted\n    owner: data-engineering\n"
    whole += "    class: internal\n    retention_days: 1095\n    masked: []\n    consumers: []\n  raw:\n"
    return put(text, r"^  raw:\n", whole.format(plan.name))


def behaviour(text: str, plan: Plan, fit: Fit | None) -> str:
    assert fit
    return modules.behaviour_module(plan, fit.ends[:3])


Write = Callable[[str, Plan, Fit | None], str]
EARLY: dict[str, Write] = {  # needed for a first fit, and written without one
    "src/PACKAGE/data.py": lambda text, plan, fit: modules.data_module(plan),
    "src/PACKAGE/features.py": lambda text, plan, fit: modules.features_module(plan),
    "src/PACKAGE/model.py": model,
}
LATER: dict[str, Write] = {
    "src/PACKAGE/behaviour.py": behaviour,
    "src/PACKAGE/fast.py": lambda text, plan, fit: modules.fast_module(plan),
    "conf/data.yml": data_conf,
    "conf/environments/prod.yml": production,
    "conf/experiment.yml": experiment,
    "conf/monitoring.yml": monitoring,
    "conf/prediction_log.yml": prediction_log,
    "conf/release.yml": release,
    "conf/retraining.yml": retraining,
    "conf/success.yml": success,
    "conf/training.yml": training,
    "conf/validation.yml": validation,
    "data/catalog.yml": catalog,
    "tests/test_data.py": test_data,
    "tests/test_features.py": test_features,
    "tests/test_model.py": test_model,
}


def write(which: dict[str, Write], known: dict[str, Any], package: str, plan: Plan, fit: Fit | None) -> dict[str, str]:
    """Return the text of each file of WHICH, by path."""
    made = {}
    for path, change in which.items():
        path = path.replace("PACKAGE", package)
        made[path] = change(known[path][plan.problem], plan, fit)
    return made
