"""How does a report read as Markdown? Pure: a study or sections in, text out."""

from collections.abc import Mapping, Sequence

from optimizer.journal import Study
from optimizer.report.blocks import Block, Bullets, Code, Section, Table
from optimizer.report.study_sections import study_sections
from optimizer.report.verdict import passed_over, verdict_line


def markdown(study: Study, shares: Mapping[str, float]) -> str:
    """The whole report of one study. `shares`: the importance of its knobs."""
    return "\n\n".join([_head(study), *map(section_markdown, study_sections(study, shares))]) + "\n"


def _head(study: Study) -> str:
    recipe = study.recipe
    goal = "\n".join(f"- {line}" for line in recipe.goal.formulas(study.baseline))
    return (
        f"# {study.name}\n\n{' '.join([verdict_line(study), *passed_over(study)])}\n\n"
        f"Target `{recipe.target.name}`, strategy `{recipe.strategy.name}`, seed {recipe.seed}, "
        f"recipe `{recipe.key}`, device {study.environment.device}.\n\nGoal:\n\n{goal}"
    )


def section_markdown(section: Section) -> str:
    return "\n\n".join([f"## {section.title}", *map(_block, section.blocks)])


def _block(block: Block) -> str:
    match block:
        case Table(header, rows):
            return table(header, [[c.text for c in row] for row in rows])
        case Code(text):
            return f"```\n{text}\n```"
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case text:
            return str(text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in line)} |" for line in lines)
