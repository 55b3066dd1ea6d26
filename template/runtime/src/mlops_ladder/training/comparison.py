"""What a training came to, as Markdown for a pull request or a job's summary."""

from typing import Any

from ..core.project import Project


def markdown(project: Project, result: dict[str, Any]) -> str:
    """Return a table of each metric on the held-out rows beside the baseline's and the champion's, and which is better."""
    rows, measured, champion = result["rows"], result["metrics"], result["champion"] or {}
    against = champion.get("metrics", {})
    lines = [
        f"### Trained on {rows['train']:,} rows of {result['data']}, measured on {rows['test']:,} held out",
        "",
        f"The rows were {result['split']}." if result.get("split") else "",
        "",
        "| metric | candidate | baseline | champion | against the champion |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, value in measured["test"].items():
        title = f"**{name}**" if name == result["primary"] else name
        beside = f"{against[name]:.4f} | {verdict(project, name, value, against[name])}" if name in against else "- | -"
        lines.append(f"| {title} | {value:.4f} | {measured['baseline'][name]:.4f} | {beside} |")
    lines += ["", remark(result, champion), ""]
    return "\n".join(lines)


def verdict(project: Project, name: str, value: float, other: float) -> str:
    gain = value - other if project.model.HIGHER_IS_BETTER[name] else other - value
    return "same" if gain == 0 else f"{'better' if gain > 0 else 'worse'} by {abs(gain):.4f}"


def remark(result: dict[str, Any], champion: dict[str, Any]) -> str:
    """Return one sentence about what the numbers do not say."""
    kept = (
        f"Registered as version {result['version']}." if result["version"] else "An experiment: nothing is registered."
    )
    if not champion:
        return f"{kept} There is no champion to compare with yet."
    if "error" in champion:
        return f"{kept} The champion, version {champion['version']}, could not be measured: {champion['error']}."
    seen = " Some of these rows were in the champion's training: it looks better here than it is."
    return (
        f"{kept} Champion: version {champion['version']}, on the same rows.{seen if champion.get('saw_rows') else ''}"
    )
