// Runs tests one after the other and writes a line for each where PGHERD_LINES says.
'use strict';
const fs = require('node:fs');

const TEST_MS_MAX = 30000;
const tests = [];

exports.test = (name, body) => tests.push([name, body]);

exports.run = async () => {
  for (const [name, body] of tests) {
    let timer;
    const limit = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`it took ${TEST_MS_MAX} ms`)), TEST_MS_MAX);
    });
    let line = `ok ${name}`;
    try {
      await Promise.race([body(), limit]);
    } catch (error) {
      console.log(name, error);
      line = `not ok ${name}\t${String(error.message).replace(/\s+/g, ' ')}`;
    }
    clearTimeout(timer);
    fs.appendFileSync(process.env.PGHERD_LINES, line + '\n');
    console.log(line);
  }
  process.exit(0);
};

exports.sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
