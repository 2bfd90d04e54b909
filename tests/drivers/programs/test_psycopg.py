"""psycopg 3, whose source package has no tests: what people do with it, each as one test."""

import asyncio
import datetime
import decimal
import ipaddress
import os
import threading
import time
import uuid

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import class_row, dict_row, namedtuple_row
from psycopg.types.json import Jsonb


@pytest.fixture
def conn():
    with psycopg.connect(autocommit=True) as connection:
        yield connection


@pytest.fixture
def table(conn):
    conn.execute("DROP TABLE IF EXISTS things")
    conn.execute("CREATE TABLE things (id int PRIMARY KEY, name text)")
    yield "things"
    conn.execute("DROP TABLE IF EXISTS things")


VALUES = [
    1,
    2**40,
    -1.5,
    decimal.Decimal("123456789.123456789"),
    "grüße \u2603",
    "x" * 100_000,
    b"\x00\xff" * 5_000,
    True,
    None,
    datetime.date(2020, 2, 29),
    datetime.time(1, 2, 3, 4),
    datetime.datetime(2020, 1, 2, 3, 4, 5, 6),
    datetime.datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc),
    datetime.timedelta(days=3, seconds=5),
    uuid.UUID(int=5),
    ipaddress.ip_network("10.0.0.0/8"),
    [1, 2, None],
    Jsonb({"a": [1, None, "b"]}),
]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("number", range(len(VALUES)))
def test_value(conn, number, binary):
    value = VALUES[number]
    form = "%b" if binary else "%t"
    got = conn.cursor(binary=binary).execute(f"SELECT {form} AS v", [value]).fetchone()[0]
    assert got == (value.obj if isinstance(value, Jsonb) else value)


@pytest.mark.parametrize("factory", [dict_row, namedtuple_row, class_row(dict)], ids=["dict", "tuple", "class"])
def test_row_factory(conn, factory):
    row = conn.cursor(row_factory=factory).execute("SELECT 1 AS a, 'x' AS b").fetchone()
    assert (row._asdict() if hasattr(row, "_asdict") else row) == {"a": 1, "b": "x"}


def test_prepared_after_five_uses(conn):
    for n in range(20):
        assert conn.execute("SELECT %s::int + 1", [n]).fetchone()[0] == n + 1


@pytest.mark.parametrize("threshold", [0, 1, None], ids=str)
def test_prepare_threshold(conn, threshold):
    conn.prepare_threshold = threshold
    for n in range(10):
        assert conn.execute("SELECT %s::text", [str(n)]).fetchone()[0] == str(n)


def test_prepared_max(conn):
    conn.prepare_threshold, conn.prepared_max = 0, 3
    for n in range(20):
        assert conn.execute(f"SELECT {n}, %s::int", [n]).fetchone() == (n, n)
        assert conn.execute("SELECT 1000, %s::int", [n]).fetchone() == (1000, n)


def test_prepared_in_many_sessions_at_once():
    errors = []

    def work(own):
        with psycopg.connect(autocommit=True) as session:
            session.prepare_threshold = 0
            for n in range(50):
                try:
                    got = session.execute(f"SELECT %s::int * 2, {n % 7}", [own + n]).fetchone()
                    assert got == ((own + n) * 2, n % 7)
                except Exception as error:  # told by the main thread
                    errors.append(error)

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(30)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert errors == []


def test_statement_of_a_table_that_changes(conn, table):
    conn.prepare_threshold = 0
    conn.execute("INSERT INTO things VALUES (1, 'a')")
    assert conn.execute("SELECT * FROM things").fetchone() == (1, "a")
    with psycopg.connect(autocommit=True) as other:
        other.prepare_threshold = 0
        assert other.execute("SELECT * FROM things").fetchone() == (1, "a")
        other.execute("ALTER TABLE things ADD b int DEFAULT 5")
    with psycopg.connect(autocommit=True) as new:
        new.prepare_threshold = 0
        assert new.execute("SELECT * FROM things").fetchone() == (1, "a", 5)


def test_transaction(conn, table):
    with conn.transaction():
        conn.execute("INSERT INTO things VALUES (1, 'a')")
    with pytest.raises(ZeroDivisionError):
        with conn.transaction():
            conn.execute("INSERT INTO things VALUES (2, 'b')")
            raise ZeroDivisionError
    assert conn.execute("SELECT id FROM things").fetchall() == [(1,)]


def test_nested_transaction(conn, table):
    with conn.transaction():
        conn.execute("INSERT INTO things VALUES (1, 'a')")
        with conn.transaction(force_rollback=True):
            conn.execute("INSERT INTO things VALUES (2, 'b')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            with conn.transaction():
                conn.execute("INSERT INTO things VALUES (1, 'c')")
        conn.execute("INSERT INTO things VALUES (3, 'd')")
    assert conn.execute("SELECT id FROM things ORDER BY id").fetchall() == [(1,), (3,)]


def test_isolation_read_only_deferrable():
    with psycopg.connect() as session:
        session.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        session.read_only, session.deferrable = True, True
        got = session.execute("SELECT current_setting('transaction_isolation')").fetchone()
        assert got == ("serializable",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            session.execute("CREATE TABLE never (a int)")


def test_failed_transaction(conn):
    with psycopg.connect() as session:
        with pytest.raises(psycopg.errors.DivisionByZero):
            session.execute("SELECT 1 / 0")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            session.execute("SELECT 1")
        assert session.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        session.rollback()
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_executemany_returning(conn, table):
    cursor = conn.cursor()
    rows = [(n, str(n)) for n in range(500)]
    cursor.executemany("INSERT INTO things VALUES (%s, %s) RETURNING id", rows, returning=True)
    ids = []
    while True:
        ids += [row[0] for row in cursor]
        if not cursor.nextset():
            break
    assert ids == list(range(500))


def test_pipeline(conn, table):
    with conn.pipeline():
        cursors = [conn.execute("SELECT %s::int", [n]) for n in range(200)]
        assert [cursor.fetchone()[0] for cursor in cursors] == list(range(200))


def test_pipeline_prepared(conn):
    conn.prepare_threshold = 0
    for _ in range(3):
        with conn.pipeline():
            cursors = [conn.execute(f"SELECT %s::int, {n % 11}", [n]) for n in range(100)]
            assert [cursor.fetchone() for cursor in cursors] == [(n, n % 11) for n in range(100)]


def test_pipeline_error_and_after(conn):
    with pytest.raises(psycopg.errors.DivisionByZero):
        with conn.pipeline() as pipeline:
            conn.execute("SELECT 1")
            conn.execute("SELECT 1 / %s", [0])
            conn.execute("SELECT 2")
            pipeline.sync()
    assert conn.execute("SELECT 3").fetchone() == (3,)


def test_pipeline_with_transactions(conn, table):
    with conn.pipeline():
        for n in range(10):
            with conn.transaction():
                conn.execute("INSERT INTO things VALUES (%s, 'p')", [n])
    assert conn.execute("SELECT count(*) FROM things").fetchone() == (10,)


def test_pipeline_sync_between(conn):
    with conn.pipeline() as pipeline:
        first = conn.execute("SELECT 1")
        pipeline.sync()
        second = conn.execute("SELECT 2")
        pipeline.sync()
        assert (first.fetchone(), second.fetchone()) == ((1,), (2,))


@pytest.mark.parametrize("form", ["text", "binary"])
def test_copy_in_and_out(conn, table, form):
    rows = [(n, f"name {n}\t\n\\") for n in range(3_000)]
    with conn.cursor().copy(f"COPY things FROM STDIN (FORMAT {form})") as copy:
        copy.set_types(["int4", "text"])
        for row in rows:
            copy.write_row(row)
    with conn.cursor().copy(f"COPY (SELECT * FROM things ORDER BY id) TO STDOUT (FORMAT {form})") as copy:
        copy.set_types(["int4", "text"])
        assert list(copy.rows()) == rows


def test_copy_in_large(conn, table):
    block = b"".join(b"%d\t%s\n" % (n, b"y" * 200) for n in range(20_000))
    with conn.cursor().copy("COPY things FROM STDIN") as copy:
        copy.write(block)
    assert conn.execute("SELECT count(*), sum(length(name)) FROM things").fetchone() == (20_000, 4_000_000)


def test_copy_in_that_the_client_gives_up(conn, table):
    with pytest.raises(ZeroDivisionError):
        with conn.cursor().copy("COPY things FROM STDIN") as copy:
            copy.write(b"1\ta\n")
            raise ZeroDivisionError
    assert conn.execute("SELECT count(*) FROM things").fetchone() == (0,)


def test_copy_in_that_the_server_refuses(conn, table):
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        with conn.cursor().copy("COPY things FROM STDIN") as copy:
            copy.write(b"no number\ta\n")
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_copy_out_left_early(conn):
    with pytest.raises(ZeroDivisionError):
        with conn.cursor().copy("COPY (SELECT generate_series(1, 1000000)) TO STDOUT") as copy:
            for _ in copy:
                raise ZeroDivisionError
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_cancel(conn):
    threading.Timer(0.3, conn.cancel).start()
    started = time.monotonic()
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute("SELECT pg_sleep(20)")
    assert time.monotonic() - started < 10
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_cancel_safe(conn):
    threading.Timer(0.3, conn.cancel_safe).start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute("SELECT pg_sleep(20)")
    assert conn.execute("SELECT 1").fetchone() == (1,)


def test_cancel_hits_nobody_else(conn):
    with psycopg.connect(autocommit=True) as other:
        done = []
        sleeper = threading.Thread(target=lambda: done.append(other.execute("SELECT pg_sleep(1)").fetchone()))
        sleeper.start()
        for _ in range(5):
            conn.execute("SELECT 1")
            conn.cancel_safe()
        sleeper.join()
        assert done == [("",)]


def test_statement_timeout(conn):
    conn.execute("SET statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute("SELECT pg_sleep(20)")
    conn.execute("RESET statement_timeout")
    conn.execute("SELECT pg_sleep(0.3)")


def test_notify(conn):
    with psycopg.connect(autocommit=True) as listener:
        listener.execute("LISTEN news")
        conn.execute("NOTIFY news, 'one'")
        conn.execute("SELECT pg_notify('news', 'two')")
        got = [note.payload for note in listener.notifies(timeout=10, stop_after=2)]
        assert got == ["one", "two"]
        listener.execute("UNLISTEN *")
        conn.execute("NOTIFY news, 'three'")
        assert [note.payload for note in listener.notifies(timeout=0.3)] == []


def test_notify_names_its_sender(conn):
    conn.execute("LISTEN own")
    conn.execute("NOTIFY own, 'me'")
    [note] = conn.notifies(timeout=10, stop_after=1)
    assert note.pid == conn.info.backend_pid


def test_two_phase(table):
    with psycopg.connect() as session:
        for number, end in enumerate(["commit", "rollback"]):
            xid = session.xid(1, f"gtrid {end}", "bq")
            session.tpc_begin(xid)
            session.execute("INSERT INTO things VALUES (%s, 'x')", [number])
            session.tpc_prepare()
            (session.tpc_commit if end == "commit" else session.tpc_rollback)()
        assert session.execute("SELECT id FROM things").fetchall() == [(0,)]


def test_two_phase_recovered(table):
    session = psycopg.connect()
    session.tpc_begin("recover me")
    session.execute("INSERT INTO things VALUES (7, 'x')")
    session.tpc_prepare()
    session.close()
    with psycopg.connect() as session:
        [xid] = [xid for xid in session.tpc_recover() if xid.gtrid == "recover me"]
        session.tpc_commit(xid)
        assert session.execute("SELECT id FROM things").fetchall() == [(7,)]


def test_server_cursor():
    with psycopg.connect() as session:
        with session.cursor(name="many") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT generate_series(1, 1000)")
            assert [row[0] for row in cursor] == list(range(1, 1001))


def test_server_cursor_scrolls_and_holds():
    with psycopg.connect() as session:
        cursor = session.cursor(name="held", scrollable=True, withhold=True)
        cursor.execute("SELECT generate_series(1, 10)")
        session.commit()
        assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
        cursor.scroll(-2)
        assert cursor.fetchone() == (2,)
        session.commit()
        assert cursor.fetchone() == (3,)
        cursor.close()


def test_stream(conn):
    assert sum(row[0] for row in conn.cursor().stream("SELECT generate_series(1, 5000)")) == 12_502_500


def test_settings_stay(conn):
    with psycopg.connect(autocommit=True) as other:
        conn.execute("SET timezone = 'Asia/Tokyo'; SET search_path = pg_catalog")
        other.execute("SET timezone = 'Europe/Rome'")
        for _ in range(5):
            show = "SELECT current_setting('timezone'), current_setting('search_path')"
            assert conn.execute(show).fetchone() == ("Asia/Tokyo", "pg_catalog")
            assert other.execute(show).fetchone()[0] == "Europe/Rome"
        assert conn.info.timezone.key == "Asia/Tokyo"


def test_set_local(conn):
    with conn.transaction():
        conn.execute("SET LOCAL work_mem = '77MB'")
        assert conn.execute("SHOW work_mem").fetchone() == ("77MB",)
    assert conn.execute("SHOW work_mem").fetchone() != ("77MB",)


def test_options_at_the_start():
    with psycopg.connect(options="-c work_mem=55MB -c statement_timeout=7s", application_name="named") as session:
        shown = [session.execute(f"SHOW {name}").fetchone()[0] for name in ["work_mem", "statement_timeout", "application_name"]]
        assert shown == ["55MB", "7s", "named"]


def test_client_encoding(conn):
    conn.execute("SET client_encoding TO latin1")
    assert conn.info.encoding == "iso8859-1"
    assert conn.execute("SELECT 'ü' || %s", ["é"]).fetchone() == ("üé",)


def test_temporary_table(conn):
    conn.execute("CREATE TEMPORARY TABLE mine (a int)")
    with psycopg.connect(autocommit=True) as other:
        other.execute("SELECT 1")
        conn.execute("INSERT INTO mine VALUES (1)")
        with pytest.raises(psycopg.errors.UndefinedTable):
            other.execute("SELECT * FROM mine")
    assert conn.execute("SELECT * FROM mine").fetchall() == [(1,)]


def test_advisory_lock(conn):
    with psycopg.connect(autocommit=True) as other:
        conn.execute("SELECT pg_advisory_lock(42)")
        assert other.execute("SELECT pg_try_advisory_lock(42)").fetchone() == (False,)
        assert conn.execute("SELECT pg_advisory_unlock(42)").fetchone() == (True,)
        assert other.execute("SELECT pg_try_advisory_lock(42)").fetchone() == (True,)


def test_notices(conn):
    notices = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    conn.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    assert notices == ["hello"]


def test_error_fields(conn, table):
    conn.execute("INSERT INTO things VALUES (1, 'a')")
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        conn.execute("INSERT INTO things VALUES (1, 'a')")
    diagnostics = caught.value.diag
    assert (diagnostics.table_name, diagnostics.constraint_name) == ("things", "things_pkey")


def test_several_statements(conn):
    cursor = conn.execute("SELECT 1; SELECT 2; SELECT 3")
    got = [cursor.fetchone()]
    while cursor.nextset():
        got.append(cursor.fetchone())
    assert got == [(1,), (2,), (3,)]


def test_large_object():
    with psycopg.connect() as session:
        loid = session.execute("SELECT lo_from_bytea(0, %s)", [b"abc" * 1000]).fetchone()[0]
        assert session.execute("SELECT lo_get(%s)", [loid]).fetchone() == (b"abc" * 1000,)
        session.execute("SELECT lo_unlink(%s)", [loid])


def test_large_row(conn):
    assert len(conn.execute("SELECT repeat('z', 20000000)").fetchone()[0]) == 20_000_000


def test_many_parameters(conn):
    values = list(range(30_000))
    query = sql.SQL("SELECT {}").format(sql.SQL(" + ").join([sql.Placeholder()] * 2))
    assert conn.execute(query, [1, 2]).fetchone() == (3,)
    got = conn.execute("SELECT count(*) FROM (VALUES " + ", ".join(["(%s::int)"] * len(values)) + ") v", values)
    assert got.fetchone() == (30_000,)


def test_currval_in_one_transaction(conn):
    conn.execute("CREATE SEQUENCE IF NOT EXISTS numbers")
    with conn.transaction():
        value = conn.execute("SELECT nextval('numbers')").fetchone()
        assert conn.execute("SELECT currval('numbers')").fetchone() == value
    conn.execute("DROP SEQUENCE numbers")


def test_sql_prepare(conn):
    conn.execute("PREPARE plus AS SELECT $1::int + 1")
    with psycopg.connect(autocommit=True) as other:
        other.execute("SELECT 1")
        with pytest.raises(psycopg.errors.InvalidSqlStatementName):
            other.execute("EXECUTE plus (1)")
    assert conn.execute("EXECUTE plus (1)").fetchone() == (2,)
    conn.execute("DEALLOCATE plus")


def test_discard_all(conn):
    conn.prepare_threshold = 0
    conn.execute("SELECT %s::int", [1])
    conn.execute("SET work_mem = '9MB'")
    conn.execute("DISCARD ALL")
    assert conn.execute("SHOW work_mem").fetchone() != ("9MB",)


def test_wrong_database():
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        psycopg.connect(dbname="nowhere")


def test_target_session_attrs():
    with psycopg.connect(target_session_attrs="read-write") as session:
        assert session.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(target_session_attrs="standby", connect_timeout=5)


def test_many_sessions():
    sessions = [psycopg.connect(autocommit=True) for _ in range(60)]
    assert sum(session.execute("SELECT 1").fetchone()[0] for session in sessions) == 60
    [session.close() for session in sessions]


def test_asyncio():
    async def work():
        async with await psycopg.AsyncConnection.connect(autocommit=True) as session:
            await session.set_autocommit(False)
            async with session.cursor() as cursor:
                await cursor.execute("SELECT generate_series(1, 100)")
                return sum([row[0] async for row in cursor])

    assert asyncio.run(work()) == 5050


def test_environment_names_the_server(conn):
    assert conn.info.port == int(os.environ["PGPORT"])
