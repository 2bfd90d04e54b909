import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.FileWriter;
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;
import java.util.Timer;
import java.util.TimerTask;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;
import org.postgresql.xa.PGXADataSource;

/** JDBC: statements that are prepared on the server after some uses, batches, cursors, COPY, XA. One line for each test. */
public class Jdbc {
    interface Body {
        void run() throws Exception;
    }

    static FileWriter lines;

    static void test(String name, Body body) throws Exception {
        String line = "ok " + name;
        try {
            body.run();
        } catch (Throwable error) {
            error.printStackTrace();
            line = "not ok " + name + "\t" + String.valueOf(error.getMessage()).replaceAll("\\s+", " ");
        }
        lines.write(line + "\n");
        lines.flush();
        System.out.println(line);
    }

    static Connection connect(String more) throws SQLException {
        String url = "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/postgres";
        return DriverManager.getConnection(url + "?user=postgres&socketTimeout=30&" + more);
    }

    static void same(Object got, Object wanted) {
        if (!String.valueOf(got).equals(String.valueOf(wanted))) {
            throw new AssertionError(got + " is not " + wanted);
        }
    }

    static Object one(Connection session, String sql) throws SQLException {
        try (Statement statement = session.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getObject(1);
        }
    }

    static void run(Connection session, String sql) throws SQLException {
        try (Statement statement = session.createStatement()) {
            statement.execute(sql);
        }
    }

    static void refused(String state, Body body) throws Exception {
        try {
            body.run();
        } catch (SQLException error) {
            same(error.getSQLState(), state);
            return;
        }
        throw new AssertionError("nothing was refused");
    }

    public static void main(String[] arguments) throws Exception {
        lines = new FileWriter(System.getenv("PGHERD_LINES"), true);
        for (String mode : List.of("extended", "simple", "extendedForPrepared", "extendedCacheEverything")) {
            test("prepared statements, " + mode, () -> prepared("preferQueryMode=" + mode));
        }
        test("prepared at once", () -> prepared("prepareThreshold=1"));
        test("prepared at once, binary", () -> prepared("prepareThreshold=-1"));
        test("never prepared", () -> prepared("prepareThreshold=0"));
        test("few kept statements", () -> prepared("prepareThreshold=1&preparedStatementCacheQueries=2"));
        for (String rewrite : List.of("true", "false")) {
            test("batch, reWriteBatchedInserts=" + rewrite, () -> batch("reWriteBatchedInserts=" + rewrite));
        }
        for (String autosave : List.of("never", "always", "conservative")) {
            test("transactions, autosave=" + autosave, () -> transactions("autosave=" + autosave));
        }
        test("cursor by fetch size", Jdbc::cursor);
        test("generated keys", Jdbc::generatedKeys);
        test("a batch in which one fails", Jdbc::failingBatch);
        test("copy in and out", Jdbc::copy);
        test("cancel", Jdbc::cancel);
        test("query timeout", Jdbc::queryTimeout);
        test("notifications", Jdbc::notifications);
        test("XA", Jdbc::xa);
        test("many sessions that prepare the same", Jdbc::crowd);
        test("a table that changes, autosave=conservative", Jdbc::changes);
        test("isolation and read only", Jdbc::isolation);
        test("metadata", Jdbc::metadata);
        test("function call", Jdbc::call);
        test("large object", Jdbc::largeObject);
        test("settings stay", Jdbc::settings);
        test("isValid and network timeout", Jdbc::valid);
        System.exit(0);
    }

    static void prepared(String more) throws Exception {
        // The driver sends no bytes as text.
        boolean isText = more.endsWith("=simple");
        String bytes = isText ? "CAST('\\x00ff' AS bytea)" : "CAST(? AS bytea)";
        try (Connection session = connect(more)) {
            for (int n = 0; n < 20; n++) {
                String sql = "SELECT CAST(? AS int) + " + n % 4
                    + ", CAST(? AS text), CAST(? AS numeric), CAST(? AS timestamptz), " + bytes;
                try (PreparedStatement statement = session.prepareStatement(sql)) {
                    for (int use = 0; use < 7; use++) {
                        statement.setInt(1, n);
                        statement.setString(2, "grüße " + use);
                        statement.setBigDecimal(3, new BigDecimal("12.50"));
                        statement.setTimestamp(4, new java.sql.Timestamp(0));
                        if (!isText) statement.setBytes(5, new byte[] {0, -1});
                        try (ResultSet rows = statement.executeQuery()) {
                            rows.next();
                            same(rows.getInt(1), n + n % 4);
                            same(rows.getString(2), "grüße " + use);
                            same(rows.getBigDecimal(3), "12.50");
                            same(rows.getTimestamp(4).getTime(), 0);
                            same(rows.getBytes(5).length, 2);
                        }
                    }
                }
            }
        }
    }

    static void batch(String more) throws Exception {
        try (Connection session = connect(more)) {
            run(session, "CREATE TABLE batch (a int, b text)");
            try (PreparedStatement statement = session.prepareStatement("INSERT INTO batch VALUES (?, ?)")) {
                for (int n = 0; n < 2000; n++) {
                    statement.setInt(1, n);
                    statement.setString(2, "x" + n);
                    statement.addBatch();
                }
                same(statement.executeBatch().length, 2000);
            }
            same(one(session, "SELECT count(*) FROM batch"), 2000);
            run(session, "DROP TABLE batch");
        }
    }

    static void transactions(String more) throws Exception {
        try (Connection session = connect(more)) {
            run(session, "CREATE TABLE tx (a int PRIMARY KEY)");
            session.setAutoCommit(false);
            run(session, "INSERT INTO tx VALUES (1)");
            Savepoint here = session.setSavepoint();
            refused("23505", () -> run(session, "INSERT INTO tx VALUES (1)"));
            session.rollback(here);
            session.commit();
            run(session, "INSERT INTO tx VALUES (2)");
            session.rollback();
            same(one(session, "SELECT count(*) FROM tx"), 1);
            session.rollback();
            session.setAutoCommit(true);
            run(session, "DROP TABLE tx");
        }
    }

    static void cursor() throws Exception {
        try (Connection session = connect("")) {
            session.setAutoCommit(false);
            for (int round = 0; round < 7; round++) {
                try (PreparedStatement statement = session.prepareStatement("SELECT generate_series(1, ?)")) {
                    statement.setFetchSize(50);
                    statement.setInt(1, 1000);
                    int sum = 0;
                    try (ResultSet rows = statement.executeQuery()) {
                        while (rows.next()) sum += rows.getInt(1);
                    }
                    same(sum, 500500);
                }
                session.commit();
            }
        }
    }

    static void generatedKeys() throws Exception {
        try (Connection session = connect("")) {
            run(session, "CREATE TABLE keyed (id serial, a int)");
            String sql = "INSERT INTO keyed (a) VALUES (?)";
            try (PreparedStatement statement = session.prepareStatement(sql, Statement.RETURN_GENERATED_KEYS)) {
                for (int n = 1; n <= 10; n++) {
                    statement.setInt(1, n);
                    statement.executeUpdate();
                    try (ResultSet keys = statement.getGeneratedKeys()) {
                        keys.next();
                        same(keys.getInt(1), n);
                    }
                }
            }
            run(session, "DROP TABLE keyed");
        }
    }

    static void failingBatch() throws Exception {
        try (Connection session = connect("prepareThreshold=1")) {
            run(session, "CREATE TABLE failing (a int PRIMARY KEY)");
            try (PreparedStatement statement = session.prepareStatement("INSERT INTO failing VALUES (?)")) {
                for (int n : new int[] {1, 2, 2, 3}) {
                    statement.setInt(1, n);
                    statement.addBatch();
                }
                refused("23505", statement::executeBatch);
                statement.setInt(1, 9);
                same(statement.executeUpdate(), 1);
            }
            same(one(session, "SELECT count(*) FROM failing"), 1);
            run(session, "DROP TABLE failing");
        }
    }

    static void copy() throws Exception {
        try (Connection session = connect("")) {
            run(session, "CREATE TABLE copied (a int, b text)");
            StringBuilder text = new StringBuilder();
            for (int n = 0; n < 20000; n++) text.append(n).append("\tname ").append(n).append("\n");
            CopyManager copier = session.unwrap(PGConnection.class).getCopyAPI();
            same(copier.copyIn("COPY copied FROM STDIN", new ByteArrayInputStream(text.toString().getBytes())), 20000);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            same(copier.copyOut("COPY copied TO STDOUT", out), 20000);
            same(out.size(), text.length());
            refused("22P02", () -> copier.copyIn("COPY copied FROM STDIN", new ByteArrayInputStream("x\ty\n".getBytes())));
            run(session, "DROP TABLE copied");
        }
    }

    static void cancel() throws Exception {
        try (Connection session = connect(""); Statement statement = session.createStatement()) {
            new Timer(true).schedule(new TimerTask() {
                public void run() {
                    try {
                        statement.cancel();
                    } catch (SQLException error) {
                        error.printStackTrace();
                    }
                }
            }, 300);
            refused("57014", () -> statement.execute("SELECT pg_sleep(20)"));
            same(one(session, "SELECT 1"), 1);
        }
    }

    static void queryTimeout() throws Exception {
        try (Connection session = connect(""); Statement statement = session.createStatement()) {
            statement.setQueryTimeout(1);
            refused("57014", () -> statement.execute("SELECT pg_sleep(20)"));
            same(one(session, "SELECT 1"), 1);
        }
    }

    static void notifications() throws Exception {
        try (Connection session = connect(""); Connection other = connect("")) {
            run(session, "LISTEN news");
            run(other, "NOTIFY news, 'hello'");
            PGConnection listener = session.unwrap(PGConnection.class);
            same(listener.getNotifications(10_000)[0].getParameter(), "hello");
        }
    }

    static void xa() throws Exception {
        PGXADataSource source = new PGXADataSource();
        source.setUrl("jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/postgres?user=postgres");
        javax.sql.XAConnection connection = source.getXAConnection();
        try (Connection session = connection.getConnection()) {
            run(session, "CREATE TABLE xa (a int)");
            javax.transaction.xa.XAResource resource = connection.getXAResource();
            for (boolean commits : new boolean[] {true, false}) {
                javax.transaction.xa.Xid xid = xid(commits ? 1 : 2);
                resource.start(xid, javax.transaction.xa.XAResource.TMNOFLAGS);
                run(session, "INSERT INTO xa VALUES (1)");
                resource.end(xid, javax.transaction.xa.XAResource.TMSUCCESS);
                resource.prepare(xid);
                if (commits) resource.commit(xid, false); else resource.rollback(xid);
            }
            same(one(session, "SELECT count(*) FROM xa"), 1);
            run(session, "DROP TABLE xa");
        } finally {
            connection.close();
        }
    }

    static javax.transaction.xa.Xid xid(int number) {
        return new javax.transaction.xa.Xid() {
            public int getFormatId() {
                return 1;
            }

            public byte[] getGlobalTransactionId() {
                return new byte[] {(byte) number};
            }

            public byte[] getBranchQualifier() {
                return new byte[] {1};
            }
        };
    }

    static void crowd() throws Exception {
        List<Thread> threads = new ArrayList<>();
        List<Throwable> errors = new ArrayList<>();
        for (int own = 0; own < 40; own++) {
            int first = own * 100;
            threads.add(new Thread(() -> {
                try (Connection session = connect("prepareThreshold=1")) {
                    for (int n = 0; n < 40; n++) {
                        String sql = "SELECT ?::int + " + n % 6;
                        try (PreparedStatement statement = session.prepareStatement(sql)) {
                            statement.setInt(1, first);
                            try (ResultSet rows = statement.executeQuery()) {
                                rows.next();
                                same(rows.getInt(1), first + n % 6);
                            }
                        }
                    }
                } catch (Throwable error) {
                    synchronized (errors) {
                        errors.add(error);
                    }
                }
            }));
        }
        for (Thread thread : threads) thread.start();
        for (Thread thread : threads) thread.join();
        same(errors, "[]");
    }

    static void changes() throws Exception {
        try (Connection session = connect("prepareThreshold=1&autosave=conservative"); Connection other = connect("")) {
            run(other, "CREATE TABLE changing (a int)");
            run(other, "INSERT INTO changing VALUES (1)");
            for (int round = 1; round <= 3; round++) {
                try (PreparedStatement statement = session.prepareStatement("SELECT * FROM changing WHERE a > ?")) {
                    statement.setInt(1, 0);
                    try (ResultSet rows = statement.executeQuery()) {
                        same(rows.getMetaData().getColumnCount(), round);
                    }
                }
                run(other, "ALTER TABLE changing ADD b" + round + " int");
            }
            run(other, "DROP TABLE changing");
        }
    }

    static void isolation() throws Exception {
        try (Connection session = connect("")) {
            session.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            session.setReadOnly(true);
            session.setAutoCommit(false);
            same(one(session, "SHOW transaction_isolation"), "serializable");
            refused("25006", () -> run(session, "CREATE TABLE never (a int)"));
            session.rollback();
        }
    }

    static void metadata() throws Exception {
        try (Connection session = connect("")) {
            run(session, "CREATE TABLE described (a int PRIMARY KEY, b text NOT NULL)");
            int columns = 0;
            try (ResultSet rows = session.getMetaData().getColumns(null, "public", "described", null)) {
                while (rows.next()) columns++;
            }
            same(columns, 2);
            try (PreparedStatement statement = session.prepareStatement("SELECT * FROM described WHERE a = ?")) {
                same(statement.getParameterMetaData().getParameterType(1), Types.INTEGER);
            }
            run(session, "DROP TABLE described");
        }
    }

    static void call() throws Exception {
        try (Connection session = connect("")) {
            run(session, "CREATE FUNCTION twice(a int, OUT b int) LANGUAGE sql AS 'SELECT a * 2'");
            try (java.sql.CallableStatement statement = session.prepareCall("{call twice(?, ?)}")) {
                statement.setInt(1, 21);
                statement.registerOutParameter(2, Types.INTEGER);
                statement.execute();
                same(statement.getInt(2), 42);
            }
            run(session, "DROP FUNCTION twice");
        }
    }

    static void largeObject() throws Exception {
        try (Connection session = connect("")) {
            session.setAutoCommit(false);
            org.postgresql.largeobject.LargeObjectManager manager =
                session.unwrap(PGConnection.class).getLargeObjectAPI();
            long id = manager.createLO();
            org.postgresql.largeobject.LargeObject object = manager.open(id);
            object.write(new byte[100_000]);
            object.seek(0);
            same(object.read(100_000).length, 100_000);
            object.close();
            manager.delete(id);
            session.commit();
        }
    }

    static void settings() throws Exception {
        try (Connection one = connect("currentSchema=pg_catalog"); Connection two = connect("ApplicationName=two")) {
            run(one, "SET timezone = 'Asia/Tokyo'");
            for (int n = 0; n < 10; n++) {
                same(one(one, "SHOW search_path"), "pg_catalog");
                same(one(one, "SHOW timezone"), "Asia/Tokyo");
                same(one(two, "SHOW application_name"), "two");
            }
        }
    }

    static void valid() throws Exception {
        try (Connection session = connect("")) {
            session.setNetworkTimeout(Runnable::run, 10_000);
            for (int n = 0; n < 5; n++) same(session.isValid(5), true);
        }
    }
}
