// postgres.js: it pipelines, prepares each text by itself, and streams COPY.
'use strict';
const assert = require('node:assert');
const { once } = require('node:events');
const postgres = require('postgres');
const { test, run, sleep } = require('./lines.js');

const options = { host: process.env.PGHOST, port: process.env.PGPORT, user: 'postgres', database: 'postgres', onnotice: () => {} };

const using = async (body, more = {}) => {
  const sql = postgres({ ...options, ...more });
  try {
    await body(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
};

test('values', () => using(async (sql) => {
  const [row] = await sql`SELECT ${1}::int AS a, ${'grüße'}::text AS b, ${[1, 2]}::int[] AS c, ${sql.json({ x: [1] })} AS d, ${null}::text AS e`;
  assert.deepStrictEqual({ ...row }, { a: 1, b: 'grüße', c: [1, 2], d: { x: [1] }, e: null });
}));

test('pipelined on few connections', () => using(async (sql) => {
  const got = await Promise.all(Array.from({ length: 500 }, (_, n) => sql`SELECT ${n}::int AS v`));
  assert.deepStrictEqual(got.map(([row]) => row.v), Array.from({ length: 500 }, (_, n) => n));
}, { max: 2 }));

test('many connections', () => using(async (sql) => {
  const got = await Promise.all(Array.from({ length: 500 }, (_, n) => sql`SELECT ${n}::int AS v, ${n % 7}::int AS w`));
  assert.strictEqual(got.reduce((sum, [row]) => sum + row.v, 0), 124750);
}, { max: 40 }));

test('without prepared statements', () => using(async (sql) => {
  for (let n = 0; n < 20; n++) assert.strictEqual((await sql`SELECT ${n}::int AS v`)[0].v, n);
}, { prepare: false }));

test('transactions and savepoints', () => using(async (sql) => {
  await sql`CREATE TABLE pj (a int PRIMARY KEY)`;
  await sql.begin(async (sql) => {
    await sql`INSERT INTO pj VALUES (1)`;
    await sql.savepoint((sql) => sql`INSERT INTO pj VALUES (1)`).catch((error) => assert.strictEqual(error.code, '23505'));
    await sql`INSERT INTO pj VALUES (2)`;
  });
  await assert.rejects(sql.begin(async (sql) => {
    await sql`INSERT INTO pj VALUES (3)`;
    throw new Error('no');
  }), /no/);
  assert.strictEqual((await sql`SELECT count(*)::int AS c FROM pj`)[0].c, 2);
  await sql`DROP TABLE pj`;
}));

test('a pipeline in a transaction', () => using(async (sql) => {
  const got = await sql.begin((sql) => Array.from({ length: 100 }, (_, n) => sql`SELECT ${n}::int AS v`));
  assert.strictEqual(got.length, 100);
}));

test('errors in a pipeline hit only their own', () => using(async (sql) => {
  const got = await Promise.allSettled(Array.from({ length: 50 }, (_, n) => sql`SELECT 10 / ${n % 5}::int AS v`));
  assert.strictEqual(got.filter((result) => result.status === 'rejected').length, 10);
}, { max: 1 }));

test('cursor', () => using(async (sql) => {
  let sum = 0;
  await sql`SELECT generate_series(1, 1000) AS v`.cursor(50, (rows) => rows.forEach((row) => { sum += row.v; }));
  assert.strictEqual(sum, 500500);
}));

test('cursor left early', () => using(async (sql) => {
  await sql`SELECT generate_series(1, 1000) AS v`.cursor(50, () => sql.CLOSE);
  assert.strictEqual((await sql`SELECT 1 AS v`)[0].v, 1);
}, { max: 1 }));

test('copy in', () => using(async (sql) => {
  await sql`CREATE TABLE pc (a int, b text)`;
  const into = await sql`COPY pc FROM STDIN`.writable();
  for (let n = 0; n < 2000; n++) into.write(`${n}\t${'y'.repeat(50)}\n`);
  const done = once(into, 'finish');
  into.end();
  await done;
  assert.strictEqual((await sql`SELECT count(*)::int AS c FROM pc`)[0].c, 2000);
  await sql`DROP TABLE pc`;
}));

test('copy out', () => using(async (sql) => {
  let bytes = 0;
  for await (const chunk of await sql`COPY (SELECT repeat('y', 9) FROM generate_series(1, 50000)) TO STDOUT`.readable()) bytes += chunk.length;
  assert.strictEqual(bytes, 500000);
}));

test('listen and notify', () => using(async (sql) => {
  const heard = new Promise((resolve) => sql.listen('news', resolve).then(() => sql.notify('news', 'hello')));
  assert.strictEqual(await heard, 'hello');
}));

test('cancel', () => using(async (sql) => {
  const slow = sql`SELECT pg_sleep(20)`;
  setTimeout(() => slow.cancel(), 300);
  await assert.rejects(slow, { code: '57014' });
  assert.strictEqual((await sql`SELECT 1 AS v`)[0].v, 1);
}, { max: 1 }));

test('describe', () => using(async (sql) => {
  const described = await sql`SELECT 1::int AS a, ${'x'}::text AS b`.describe();
  assert.deepStrictEqual(described.columns.map((column) => column.type), [23, 25]);
}));

test('simple queries of several statements', () => using(async (sql) => {
  const got = await sql`SELECT 1 AS v; SELECT 2 AS v`.simple();
  assert.deepStrictEqual(got.map(([row]) => row.v), [1, 2]);
}));

test('a table that changes between connections', () => using(async (sql) => {
  await sql`CREATE TABLE pt (a int)`;
  for (const type of ['bigint', 'text', 'date']) {
    await sql`DROP TABLE pt`;
    await sql.unsafe(`CREATE TABLE pt (a ${type})`);
    await using(async (other) => {
      const { types } = await other`INSERT INTO pt VALUES (${null})`.describe();
      assert.deepStrictEqual(types, [{ bigint: 20, text: 25, date: 1082 }[type]]);
    });
  }
  await sql`DROP TABLE pt`;
}));

test('reserved connections keep their settings', () => using(async (sql) => {
  const reserved = await sql.reserve();
  await reserved`SET work_mem = '66MB'`;
  await sql`SELECT 1`;
  assert.strictEqual((await reserved`SHOW work_mem`)[0].work_mem, '66MB');
  reserved.release();
}));

test('connections come back after they rest', () => using(async (sql) => {
  await sql`SELECT 1`;
  await sleep(1500);
  assert.strictEqual((await sql`SELECT 1 AS v`)[0].v, 1);
}, { idle_timeout: 1 }));

run();
