import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { bucketFor, renewedBuckets, rowBuckets } from '../../src/families/row-buckets.js';

const rowsMaxArbitrary = fc.integer({ min: 64, max: 8192 });

test('the ladder up to 8192 rows', () => {
  assert.deepEqual(rowBuckets(2048), [64, 128, 192, 256, 384, 512, 768, 1024, 2048]);
  assert.deepEqual(rowBuckets(64), [64]);
  assert.deepEqual(rowBuckets(100), [64, 100]);
  assert.equal(rowBuckets(8192).length, 15, 'few enough to capture them all at start');
});

test('a bucket is the smallest that holds the rows; more than the largest is a defect', () => {
  const buckets = rowBuckets(512);
  assert.deepEqual(
    [0, 1, 64, 65, 200, 512].map((rows) => bucketFor(buckets, rows)),
    [64, 64, 64, 128, 256, 512],
  );
  assert.throws(() => bucketFor(buckets, 513), /513 rows exceed the largest bucket of 512/);
});

test('every count of rows has a bucket, ascending, and from 64 rows on at most a half of it is padding', () => {
  fc.assert(
    fc.property(rowsMaxArbitrary, fc.nat(), (rowsMax, any) => {
      const buckets = rowBuckets(rowsMax);
      assert.ok(buckets.every((bucket, i) => i === 0 || bucket > (buckets[i - 1] as number)));
      assert.equal(buckets.at(-1), rowsMax);
      const rows = 1 + (any % rowsMax);
      const bucket = bucketFor(buckets, rows);
      assert.ok(bucket >= rows && bucket <= rowsMax);
      if (rows >= 64) assert.ok(bucket - rows < bucket / 2, `${rows} rows in a bucket of ${bucket}`);
    }),
  );
});

test('renewed rows beside any bucket of active ones: none has its own, all that can be fit, none is larger than the table', () => {
  fc.assert(
    fc.property(rowsMaxArbitrary, fc.nat(), fc.nat(), (rowsMax, which, any) => {
      const ladder = rowBuckets(rowsMax);
      const active = ladder[which % ladder.length] as number;
      const buckets = renewedBuckets(active, rowsMax);
      assert.deepEqual([buckets[0], buckets.at(-1)], [0, rowsMax]);
      assert.ok(buckets.every((bucket, i) => i === 0 || bucket > (buckets[i - 1] as number)));
      const rows = any % (rowsMax + 1);
      assert.ok(bucketFor(buckets, rows) >= rows);
      // What most steps renew, a quarter of the active rows and less, costs at most an eighth of them in padding.
      if (rows <= active / 4) assert.ok(bucketFor(buckets, rows) - rows <= Math.ceil(active / 8));
    }),
  );
});
