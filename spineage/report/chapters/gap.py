"""The spine age gap: what it looks like, what goes with it, and the ablations. All of it uses the
age.
"""

from __future__ import annotations

import pandas as pd

from spineage.report import numbers
from spineage.report.evidence import Evidence, Tables
from spineage.report.figures.effects import forest, planted_gap_vs_sag, sag_distribution
from spineage.report.page import Block, Chapter, Heading, Text, drawing, table
from spineage.report.words import DASH, counted, number, percent, readable, signed_years
from spineage.science.frames import rows_of
from spineage.science.gap.sample import never_used, out_of_sample

MOST_DRAWN = 40
POPULATION_NAMES = {
    "all": "all people",
    "normal": "normal spines only",
    "not_normal": "not normal only",
}


def sag(evidence: Evidence) -> Chapter:
    """Distribution, relation to age, and on phantoms the planted truth."""
    tables = evidence.tables
    scores = out_of_sample(tables.scores)
    if not len(scores):
        return Chapter(
            "sag",
            "The spine age gap",
            (Text(("No scan outside training has an age, so no gap is known.",), "warning"),),
        )
    unused = never_used(tables.scores)
    r_age = numbers.correlation(unused["sag_years"], unused["age_years"])
    by_status = [
        f"{readable(str(status))} {signed_years(some['sag_years'].mean())} (SD "
        f"{some['sag_years'].std():.1f}, n = {len(some)})"
        for status, some in scores.groupby("status")
    ]
    blocks: list[Block] = [
        Text(
            (
                "SAG is spine age minus chronological age; positive is older-looking. Spine age "
                "is the raw prediction with the network's age bias taken off: corrected, uses "
                "age. Shown are scans the network was neither trained on nor chosen by. Mean "
                f"SAG: {'; '.join(by_status)}.",
                f"r(SAG, age) is {number(r_age)} on {counted(len(unused), 'scan')} that took no "
                "part in fitting the correction either. A linear correction does not make a gap "
                "free of age: the associations below adjust for age as a spline.",
            )
        ),
        drawing(
            sag_distribution(scores),
            "SAG of out-of-sample scans: distribution and against age. Other spines than normal "
            "are expected above zero.",
            "Histogram of SAG and scatter of SAG against age",
        ),
        *_truth(tables),
    ]
    return Chapter("sag", "The spine age gap", tuple(blocks))


def _truth(tables: Tables) -> list[Block]:
    if not tables.has_truth:
        return []
    scores = out_of_sample(tables.scores)
    known = scores[scores["gap_years"].notna()]
    r_gap = numbers.correlation(known["sag_years"], known["gap_years"])
    if r_gap is None:
        return []
    return [
        Text(
            (
                "These are phantoms, so the truth is known: r(SAG, planted gap) is "
                f"{number(r_gap)} on {counted(len(known), 'scan')}. Real people offer no such "
                "check.",
            )
        ),
        drawing(
            planted_gap_vs_sag(known),
            "SAG against the gap that was planted; dashed: identity, line: least squares. A "
            "slope under 1 is shrinkage: the network cannot tell all of the gap from the noise.",
            "Scatter of SAG against the planted gap",
        ),
    ]


def associations(evidence: Evidence) -> Chapter | None:
    """Forest plots of both families, all results in a table, what was not tested; None when nothing
    was asked.
    """
    rows = evidence.tables.associations
    if not len(rows) and not evidence.not_tested:
        return None
    blocks: list[Block] = [_caveats(evidence)]
    for family in sorted(rows["family"].unique()):
        blocks += _family(rows[rows["family"] == family], family)
    if evidence.not_tested:
        blocks.append(_not_tested(evidence))
    return Chapter("associations", "What goes with the gap", tuple(blocks))


def _caveats(evidence: Evidence) -> Text:
    settings, sample = evidence.study.associate, evidence.sample
    who = (
        f"{counted(int(sample['num_people']), 'person', 'people')} out of sample, one scan each. "
        if sample
        else ""
    )
    return Text(
        (
            f"{who}SAG ~ exposure + natural spline of age ({settings.spline_df} df) + sex + site, "
            "HC3 standard errors; q is Benjamini-Hochberg within family and population. Nulls "
            "are listed beside what is not null.",
            "Cross-sectional association, not cause. Findings define who is normal and are then "
            "tested against SAG: in the pooled population that is circular, so read each "
            f"population by itself. Exposures with fewer than {settings.min_exposed} people "
            "exposed are marked “few” and drawn pale.",
        ),
        "warning",
    )


def _family(rows: pd.DataFrame, family: str) -> list[Block]:
    pooled = rows[(rows["population"] == "all") & (rows["outcome"] == "sag")].sort_values(
        ["p", "exposure"]
    )
    blocks: list[Block] = [Heading(family.capitalize())]
    if len(pooled):
        shown = pooled.head(MOST_DRAWN)
        rest = (
            f" The {MOST_DRAWN} with the smallest p of {len(pooled)}; all are in the table."
            if len(shown) < len(pooled)
            else ""
        )
        num_null = int((pooled["q"] >= 0.05).sum())
        blocks.append(
            drawing(
                forest(shown),
                f"{family.capitalize()}, all people: difference in SAG with 95 % limits, then q "
                f"and the numbers exposed / unexposed. Coloured: q < 0.05; grey: {num_null} of "
                f"{len(pooled)} are null.{rest}",
                f"Forest plot of {family}: {len(pooled)} effects on SAG",
            )
        )
    return [*blocks, _results(rows, family)]


def _results(rows: pd.DataFrame, family: str) -> Block:
    """Each exposure once a population: the effect on SAG, and on the raw gap as its sensitivity
    check.
    """
    sag_rows = rows[rows["outcome"] == "sag"].sort_values(["population", "p", "exposure"])
    raw = {
        (row.exposure, row.population): row.effect_years
        for row in rows_of(rows[rows["outcome"] == "raw_gap"])
    }
    cells = [
        (
            readable(row.exposure),
            POPULATION_NAMES.get(row.population, row.population),
            number(row.effect_years, 1),
            f"{number(row.low_years, 1)} to {number(row.high_years, 1)}",
            _p(row.p),
            _p(row.q),
            f"{row.num_exposed:,}" + (f" / {row.num_unexposed:,}" if row.num_unexposed else ""),
            number(raw.get((row.exposure, row.population)), 1),
            "few" if row.is_small else "",
        )
        for row in rows_of(sag_rows)
    ]
    columns = (
        "exposure",
        "population",
        "SAG, years",
        "95 % CI",
        "p",
        "q",
        "exposed / not",
        "raw gap, years",
        "",
    )
    return table(
        f"{family.capitalize()}: every effect that was estimated, in every population.",
        columns,
        cells,
        text_columns=2,
    )


def _p(value: float) -> str:
    return DASH if pd.isna(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _not_tested(evidence: Evidence) -> Block:
    """Exposures that were not tested, by reason: silence would read as a null."""
    found = pd.DataFrame([dict(row) for row in evidence.not_tested])
    found = found.assign(
        population=found["population"].fillna("all") if "population" in found else "all"
    )
    cells = [
        (
            str(exposure).replace("_", " "),
            ", ".join(sorted(set(some["population"]))).replace("_", " "),
            str(reason),
        )
        for (exposure, reason), some in found.groupby(["exposure", "reason"])
    ]
    return table(
        "Not tested, and why.", ("exposure", "population", "reason"), cells, text_columns=3
    )


def ablations(evidence: Evidence) -> Chapter | None:
    """The grid of region x loss x data size, and of rules; None when it was not run."""
    rows = evidence.tables.ablations
    if not len(rows):
        return None
    cells = [
        (str(region), str(loss), percent(float(str(fraction))), str(rule), *_arm_cells(some))
        for (region, loss, fraction, rule), some in rows.groupby(
            ["region", "loss", "fraction", "rule"]
        )
    ]
    columns = (
        "region",
        "loss",
        "data",
        "normal by",
        "seeds",
        "training people",
        "validation MAE",
        "test MAE",
        "test R²",
    )
    return Chapter(
        "ablations",
        "What the network needs",
        (
            Text(
                (
                    "Raw error when the network sees one region, another loss, fewer people, or people who "
                    "are normal by another rule; mean (SD over seeds), years. Test people are the same in "
                    "every row: those normal by the study's own status, which favours the study's own rule. "
                    "Validation people are those of the row's rule, so that their errors compare within a "
                    "rule only.",
                )
            ),
            table(
                "The ablation grid. Who picks a row by its test error has no test people left.",
                columns,
                cells,
                text_columns=4,
            ),
        ),
    )


def _arm_cells(some: pd.DataFrame) -> tuple[str, ...]:
    return (
        f"{len(some)}",
        f"{some['num_train'].mean():.0f}",
        *(_mean_sd(some[name]) for name in ("validate_mae_years", "test_mae_years", "test_r2")),
    )


def _mean_sd(values: pd.Series) -> str:
    known = values.dropna()
    if not len(known):
        return DASH
    spread = f" ({known.std():.2f})" if len(known) > 1 else ""
    return f"{known.mean():.2f}{spread}"
