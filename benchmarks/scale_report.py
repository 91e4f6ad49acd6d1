"""What the benchmark of one large world prints."""

from typing import Any

from benchmarks import report


def show(n_subjects: int, machine: dict[str, Any], found: dict[str, Any]) -> None:
    """Print what `scale.measure` found: stages; visits, R6 and accuracy by decade; checks of the whole world."""
    console = report.console()
    title = f"{n_subjects:,} subjects, {found['n_facts']:,} facts, {found['n_draws']:,} draws"
    stages = report.table(title, "stage", "seconds", "peak RAM", "on device, so far")
    for stage in found["stages"]:
        on_device = f"{stage['device_peak_bytes'] / 1e9:.2f} GB" if stage["device_peak_bytes"] else "–"
        ram = f"{stage['peak_bytes'] / 1e9:.2f} GB"
        stages.add_row(stage["stage"], f"{stage['seconds']:.1f}", ram, on_device)
    peak = max(stage["peak_bytes"] for stage in found["stages"])
    stages.add_row("all", f"{sum(stage['seconds'] for stage in found['stages']):.1f}", f"{peak / 1e9:.2f} GB", "")
    visits = report.table(
        "Visits by rank of popularity", "rank from", "facts", "expected", "counted", "drawn", "expected"
    )
    fits = report.table("R6 and accuracy", "rank from", "salience", "R6", "R²", "R², visits", *found["arms"])
    for decade in found["decades"]:
        first = f"{decade['first']:,}"
        means = (f"{decade[name]:.4g}" for name in ("expected_visits", "visits"))
        shares = (f"{decade[name]:.3%}" for name in ("drawn", "expected_drawn"))
        visits.add_row(first, f"{decade['n_facts']:,}", *means, *shares)
        numbers = (
            f"{decade[name]:.3g}" for name in ("salience", "predicted_salience", "r_squared", "r_squared_visits")
        )
        fits.add_row(first, *numbers, *(f"{decade['accuracy'][arm]:.1%}" for arm in found["arms"]))
    console.print(stages, visits, fits)
    is_same = "the same" if found["subjects_drawn"] == found["subjects_moved"] else "NOT the same"
    arms = "; ".join(
        f"{arm}: accuracy {one['accuracy']:.2%}, subject's share {one['subject_share']:.3f}"
        for arm, one in found["arms"].items()
    )
    console.print(
        f"Facts drawn: {found['distinct']:,}, expected {found['expected_distinct']:,.0f}. Chi-square over the ranks "
        f"{found['chi_square']:.1f}, p = {found['chi_square_p']:.2f}. Subjects drawn {found['subjects_drawn']:,}, and "
        f"with a value {found['subjects_moved']:,}: {is_same}.\nR6 from exposure alone: R² {found['r_squared']:.3f} "
        f"over all subjects; from counted visits {found['r_squared_visits']:.3f}.\nHeld-out facts, {arms}."
    )
    report.show_load(console, machine)
