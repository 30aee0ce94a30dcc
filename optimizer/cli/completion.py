"""What may follow while a setting is typed? Files of a group and keys; quick, so nothing heavy is imported."""

from optimizer.resources import conf_dir

KEYS = (
    "study=", "studies_dir=", "seed=", "device=", "ahead=", "budget.trials=", "budget.seconds=", "budget.patience=",
    "tracking.uri=", "space.", "baseline.",
)  # fmt: skip


def complete_word(incomplete: str) -> list[str]:
    groups = sorted(p.name for p in conf_dir().iterdir() if p.is_dir())
    group, equals, _ = incomplete.partition("=")
    if equals and group in groups:
        names = sorted(p.stem for p in (conf_dir() / group).glob("*.yaml"))
        offers = [f"{group}={name}" for name in names]
    else:
        offers = [*(f"{g}=" for g in groups), *KEYS]
    return [o for o in offers if o.startswith(incomplete)]
