"""What each test file costs: `pytest -p tests.costs` prints a table.

Seconds on the clock, CPU seconds with those of child processes, and programs
that XLA compiled; summed over the workers, fixtures included, imports not.
"""

import os
import time
from collections import defaultdict

import pytest

COMPILED = "/jax/core/compile/backend_compile_duration"
_programs = [0]
_found = defaultdict(lambda: [0, 0.0, 0.0, 0])  # tests, clock, CPU, programs


def pytest_configure():
  import jax.monitoring  # once tests/conftest.py has said how it compiles

  def listen(event, duration, **_):
    _programs[0] += event == COMPILED

  jax.monitoring.register_event_duration_secs_listener(listen)


def _used():
  times = os.times()
  cpu = times.user + times.system + times.children_user + times.children_system
  return time.perf_counter(), cpu, _programs[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
  item.user_properties.append(("before", _used()))
  return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
  report = yield
  if call.when == "teardown":
    before = dict(item.user_properties)["before"]
    spent = [b - a for a, b in zip(before, _used(), strict=True)]
    report.user_properties = [("cost", spent)]
  return report


def pytest_runtest_logreport(report):
  if report.when == "teardown":
    row = _found[report.nodeid.split("::")[0]]
    for index, value in enumerate([1, *dict(report.user_properties)["cost"]]):
      row[index] += value


def pytest_terminal_summary(terminalreporter):
  write = terminalreporter.write_line
  write(f"{'clock':>8} {'CPU s':>8} {'programs':>8} {'tests':>6}  file")
  rows = sorted(_found.items(), key=lambda row: -row[1][1])
  total = [sum(column) for column in zip(*_found.values(), strict=True)]
  for name, (tests, clock, cpu, programs) in [*rows, ("all", total)]:
    write(f"{clock:8.1f} {cpu:8.1f} {programs:8d} {tests:6d}  {name}")
