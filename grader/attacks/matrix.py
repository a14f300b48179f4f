"""The table of all attacks, for tests/attacks/README.md and its Chinese twin."""

from __future__ import annotations

from pathlib import Path

from grader.attacks.case import Attack, attacks

HEADS = {
    "en": "| Attack | What it tries | Laid over | What holds | Not enforced |",
    "zh": "| 攻击 | 它尝试什么 | 叠加在 | 靠什么挡住 | 何处不保证 |",
}
OVER = {
    "en": {"empty": "starter", "solution": "solution"},
    "zh": {"empty": "起始代码", "solution": "参考答案"},
}
WITHOUT = {
    "en": {
        "files": "without bubblewrap",
        "signals": "without bubblewrap",
        "ipc": "without bubblewrap",
        "network": "where the network is shared",
        "processes": "where processes are not limited",
        "disk": "where the disk is not bounded",
        "memory": "where memory is not bounded together",
        "calls": "without libseccomp",
    },
    "zh": {
        "files": "没有 bubblewrap 时",
        "signals": "没有 bubblewrap 时",
        "ipc": "没有 bubblewrap 时",
        "network": "网络未隔离时",
        "processes": "进程数未受限时",
        "disk": "磁盘未受限时",
        "memory": "总内存未受限时",
        "calls": "没有 libseccomp 时",
    },
}


def attack_table(path: Path, lang: str) -> str:
    """Return the table in the language of the document at `path`."""
    rows = [HEADS[lang], "|---|---|---|---|---|", *(_row(attack, lang) for attack in attacks())]
    return "\n".join(rows) + "\n"


def _row(attack: Attack, lang: str) -> str:
    without = ", ".join(dict.fromkeys(WITHOUT[lang][need] for need in attack.needs))
    only = ", ".join(filter(None, [attack.exercise, *_brokers(attack)]))
    over = OVER[lang][attack.on] + (f" ({only})" if only else "")
    cells = (f"`{attack.id}`", attack.title[lang], over, attack.holds[lang], without)
    return f"| {' | '.join(cells)} |"


def _brokers(attack: Attack) -> tuple[str, ...]:
    return () if attack.brokers == ("redis",) else attack.brokers
