"""prometheus-pgbouncer-exporter, as it is published, against the admin console: all that it has to tell is there."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psycopg2
import pytest

# All but what it reads from columns that PgBouncer 1.24 does not have: total_requests (until 1.8) and reserve_pool, which
# is reserve_pool_size now.
STATS = [
    "transactions_total",
    "queries_total",
    "transactions_duration_microseconds",
    "waiting_duration_microseconds",
    "queries_duration_microseconds",
    "received_bytes_total",
    "sent_bytes_total",
]
POOLS = [
    "client_active_connections",
    "client_waiting_connections",
    "server_active_connections",
    "server_idle_connections",
    "server_used_connections",
    "server_testing_connections",
    "server_login_connections",
    "client_maxwait_seconds",
]
DATABASES = [
    "database_pool_size",
    "database_current_connections",
    "database_max_connections",
]
CONFIG = ["max_client_conn", "max_user_connections"]
START_SECONDS_MAX = 20
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    port = free_port()
    config = tmp_path_factory.mktemp("exporter") / "config.yml"
    dsn = f"postgresql://postgres@127.0.0.1:{os.environ['PGPORT']}/pgbouncer"
    config.write_text(f"exporter_port: {port}\npgbouncers:\n  - dsn: {dsn}\n    extra_labels:\n      node: n1\n")
    command = [os.path.join(os.path.dirname(sys.executable), "pgbouncer-exporter"), "--config", str(config)]
    exporter = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}/metrics"
    wait_for(url)
    yield url
    exporter.send_signal(signal.SIGTERM)
    try:
        exporter.wait(10)
    finally:
        exporter.kill()


def wait_for(url):
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture
def session():
    """One that is in a transaction, so that there is a pool with a session and a server."""
    connection = psycopg2.connect("")
    connection.cursor().execute("SELECT 1")
    yield connection
    connection.close()


def scrape(url):
    """Samples by name, each as its labels and its value."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = {}
    for match in filter(None, map(SAMPLE.match, lines)):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
        samples.setdefault(match[1], []).append((labels, float(match[3])))
    return samples


def value(samples, family, **labels):
    # A counter whose name does not end so gets it from the library of Prometheus.
    found = samples.get(family) or samples.get(f"{family}_total") or []
    values = [value for has, value in found if labels.items() <= has.items()]
    assert len(values) == 1, f"{family} {labels}: {found}"
    return values[0]


def test_up(address, session):
    assert value(scrape(address), "pgbouncer_up", node="n1") == 1


@pytest.mark.parametrize("name", STATS)
def test_stats(address, session, name):
    assert value(scrape(address), f"pgbouncer_stats_{name}", database="postgres") >= 0


@pytest.mark.parametrize("name", POOLS)
def test_pools(address, session, name):
    assert value(scrape(address), f"pgbouncer_pools_{name}", database="postgres", user="postgres") >= 0


@pytest.mark.parametrize("name", DATABASES)
def test_databases(address, session, name):
    labels = {"database": "postgres", "backend_database": "postgres"}
    assert value(scrape(address), f"pgbouncer_databases_{name}", **labels) >= 0


@pytest.mark.parametrize("name", CONFIG)
def test_config(address, session, name):
    assert value(scrape(address), f"pgbouncer_config_{name}") >= 0


def test_counters_count(address, session):
    def counted():
        samples = scrape(address)
        return [value(samples, f"pgbouncer_stats_{name}", database="postgres") for name in STATS]

    # A transaction's queries are counted when it ends.
    session.rollback()
    before = counted()
    for _ in range(50):
        session.cursor().execute("SELECT pg_sleep(0.001)")
        session.commit()
    grown = dict(zip(STATS, (after - was for after, was in zip(counted(), before))))
    assert grown["transactions_total"] == 50
    # BEGIN and COMMIT count.
    assert grown["queries_total"] == 150
    assert grown["queries_duration_microseconds"] >= 50_000
    assert grown["transactions_duration_microseconds"] >= grown["queries_duration_microseconds"]
    assert grown["received_bytes_total"] > 50 * len("SELECT pg_sleep(0.001)")
    assert grown["sent_bytes_total"] > 50


def test_gauges_follow(address, session):
    def pools(name):
        return value(scrape(address), f"pgbouncer_pools_{name}", database="postgres", user="postgres")

    assert pools("client_active_connections") == 1
    assert pools("server_active_connections") == 1
    session.rollback()
    assert pools("server_active_connections") == 0
    assert pools("server_idle_connections") >= 1
    assert value(scrape(address), "pgbouncer_databases_database_pool_size", database="postgres") == 20
