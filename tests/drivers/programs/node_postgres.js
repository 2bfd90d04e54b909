// node-postgres: its client, its pool, its named statements.
'use strict';
const assert = require('node:assert');
const pg = require('pg');
const { test, run, sleep } = require('./lines.js');

const client = async (options = {}) => {
  const session = new pg.Client(options);
  session.on('error', () => {});
  await session.connect();
  return session;
};

const using = async (body, options) => {
  const session = await client(options);
  try {
    await body(session);
  } finally {
    await session.end();
  }
};

test('values', () => using(async (session) => {
  const values = [1, 'grüße', true, null, [1, 2], { a: 1 }, Buffer.from([0, 255]), new Date(0), 'x'.repeat(100000)];
  const casts = ['int', 'text', 'bool', 'text', 'int[]', 'jsonb', 'bytea', 'timestamptz', 'text'];
  const list = casts.map((cast, n) => `$${n + 1}::${cast}`).join(', ');
  const { rows } = await session.query({ text: `SELECT ${list}`, values, rowMode: 'array' });
  assert.deepStrictEqual(rows[0], values);
}));

test('named statements', () => using(async (session) => {
  for (let n = 0; n < 50; n++) {
    const { rows } = await session.query({ name: `s${n % 5}`, text: `SELECT $1::int + ${n % 5} AS v`, values: [n] });
    assert.strictEqual(rows[0].v, n + (n % 5));
  }
}));

test('the same name for other texts in many sessions', async () => {
  const work = (own) => using(async (session) => {
    for (let n = 0; n < 30; n++) {
      const { rows } = await session.query({ name: 'same', text: `SELECT $1::int * ${own} AS v`, values: [n] });
      assert.strictEqual(rows[0].v, n * own);
    }
  });
  await Promise.all(Array.from({ length: 40 }, (_, n) => work(n)));
});

test('a pool with more clients than servers', async () => {
  const pool = new pg.Pool({ max: 40 });
  const got = await Promise.all(Array.from({ length: 500 }, (_, n) => pool.query('SELECT $1::int AS v', [n])));
  assert.strictEqual(got.reduce((sum, result) => sum + result.rows[0].v, 0), 124750);
  await pool.end();
});

test('transactions', () => using(async (session) => {
  await session.query('CREATE TABLE IF NOT EXISTS np (a int PRIMARY KEY)');
  await session.query('BEGIN');
  await session.query('INSERT INTO np VALUES ($1)', [1]);
  await session.query('ROLLBACK');
  await session.query('BEGIN');
  await session.query('INSERT INTO np VALUES ($1)', [2]);
  await session.query('SAVEPOINT s');
  await assert.rejects(session.query('INSERT INTO np VALUES ($1)', [2]), { code: '23505' });
  await session.query('ROLLBACK TO s');
  await session.query('COMMIT');
  assert.deepStrictEqual((await session.query('SELECT a FROM np')).rows, [{ a: 2 }]);
  await session.query('DROP TABLE np');
}));

test('an error and after', () => using(async (session) => {
  await assert.rejects(session.query('SELECT 1 / $1::int', [0]), { code: '22012' });
  await assert.rejects(session.query('SELEC'), { code: '42601' });
  assert.strictEqual((await session.query('SELECT 1 AS v')).rows[0].v, 1);
}));

test('queries sent at once', () => using(async (session) => {
  const got = await Promise.all(Array.from({ length: 200 }, (_, n) => session.query('SELECT $1::int AS v', [n])));
  assert.deepStrictEqual(got.map((result) => result.rows[0].v), Array.from({ length: 200 }, (_, n) => n));
}));

test('several statements', () => using(async (session) => {
  const got = await session.query('SELECT 1 AS v; SELECT 2 AS v');
  assert.deepStrictEqual(got.map((result) => result.rows[0].v), [1, 2]);
}));

test('notifications', () => using(async (session) => {
  const heard = new Promise((resolve) => session.on('notification', resolve));
  await session.query('LISTEN news');
  await using((other) => other.query("SELECT pg_notify('news', 'hello')"));
  assert.strictEqual((await heard).payload, 'hello');
}));

test('notices', () => using(async (session) => {
  const heard = new Promise((resolve) => session.on('notice', resolve));
  await session.query("DO $$ BEGIN RAISE NOTICE 'hello'; END $$");
  assert.strictEqual((await heard).message, 'hello');
}));

test('a cancel by another session', () => using(async (session) => {
  const slow = session.query('SELECT pg_sleep(20)');
  await sleep(300);
  const canceller = new pg.Client();
  canceller.cancel(session, session.activeQuery ?? session._activeQuery);
  await assert.rejects(slow, { code: '57014' });
  assert.strictEqual((await session.query('SELECT 1 AS v')).rows[0].v, 1);
}));

test('a timeout for statements', () => using(async (session) => {
  await assert.rejects(session.query('SELECT pg_sleep(20)'), { code: '57014' });
}, { statement_timeout: 200 }));

test('a timeout of the client', () => using(async (session) => {
  await assert.rejects(session.query('SELECT pg_sleep(1)'), /timeout/);
}, { query_timeout: 200 }));

test('settings stay with their session', async () => {
  await Promise.all(['Asia/Tokyo', 'Europe/Rome', 'UTC'].map((zone) => using(async (session) => {
    await session.query(`SET timezone = '${zone}'`);
    for (let n = 0; n < 20; n++) {
      assert.strictEqual((await session.query('SHOW timezone')).rows[0].TimeZone, zone);
    }
  })));
});

test('a table that changes under a pool', async () => {
  const pool = new pg.Pool({ max: 3 });
  await pool.query('CREATE TABLE changes (a int)');
  await pool.query('INSERT INTO changes VALUES (1)');
  for (let n = 0; n < 3; n++) {
    const got = await pool.query('SELECT * FROM changes WHERE a > $1', [0]);
    assert.strictEqual(got.fields.length, n + 1);
    await pool.query(`ALTER TABLE changes ADD b${n} int`);
  }
  await pool.query('DROP TABLE changes');
  await pool.end();
});

test('a large result', () => using(async (session) => {
  const { rows } = await session.query("SELECT repeat('z', 20000000) AS v");
  assert.strictEqual(rows[0].v.length, 20000000);
}));

test('application_name and options', () => using(async (session) => {
  const { rows } = await session.query("SELECT current_setting('application_name') AS a, current_setting('work_mem') AS w");
  assert.deepStrictEqual(rows[0], { a: 'named', w: '55MB' });
}, { application_name: 'named', options: '-c work_mem=55MB' }));

test('a database that is not there', async () => {
  await assert.rejects(client({ database: 'nowhere' }), { code: '3D000' });
});

run();
