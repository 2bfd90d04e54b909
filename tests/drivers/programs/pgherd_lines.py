"""A plugin for pytest: one line for each test in the file that PGHERD_LINES names.

`ok NAME`, `skip NAME`, or `not ok NAME<tab>MESSAGE` with the last line of what went wrong. A test counts by its worst part: set-up,
subtests and tear-down included.
"""

import os

RANK = {"ok": 1, "skip": 0, "not ok": 2}
outcomes = {}


def message_of(report):
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    return " ".join(text.split())[:600]


def pytest_runtest_logreport(report):
    if report.skipped:
        now = ("skip", "")
    elif report.failed:
        now = ("not ok", message_of(report))
    else:
        now = ("ok", "")
    before = outcomes.get(report.nodeid, ("skip", ""))
    # A part that went well says nothing of a skipped test.
    if report.when != "call" and now[0] == "ok" and before[0] == "skip":
        outcomes.setdefault(report.nodeid, before)
    elif now[0] == "not ok" and before[0] == "not ok":
        outcomes[report.nodeid] = ("not ok", f"{before[1]} | {now[1]}"[:4000])
    elif RANK[now[0]] >= RANK[before[0]]:
        outcomes[report.nodeid] = now
    write(report.nodeid)


def write(name):
    # Written at once: a suite that is ended in its middle still tells what it had.
    word, message = outcomes[name]
    with open(os.environ["PGHERD_LINES"], "a", encoding="utf-8") as lines:
        lines.write(f"{word} {name}" + (f"\t{message}" if message else "") + "\n")
