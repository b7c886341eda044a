import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { countCodePoints, TextStream } from '../../src/http/text-stream.js';

/** Feeds the bytes in parts of the given lengths, over and over; returns what was given out, part by part. */
function feed(bytes: Uint8Array, lengths: readonly number[], stops: readonly string[] = []) {
  const stream = new TextStream(stops);
  const given: string[] = [];
  let at = 0;
  for (let i = 0; at < bytes.length && !stream.stopped; i++) {
    const end = at + (lengths[i % lengths.length] as number);
    given.push(stream.push(bytes.subarray(at, end)).text);
    at = end;
  }
  given.push(stream.end().text);
  return { given, text: given.join(''), stopped: stream.stopped, codePoints: stream.codePoints };
}

test('a character spread over tokens is held back until it is whole', () => {
  const stream = new TextStream([]);
  const [first = 0, second = 0, third = 0] = Buffer.from('€');
  assert.equal(stream.push(Uint8Array.of(97, first)).text, 'a');
  assert.equal(stream.push(Uint8Array.of(second)).text, '');
  assert.equal(stream.push(Uint8Array.of(third, 98)).text, '€b');
  assert.equal(stream.push(Uint8Array.of(first)).text, '');
  assert.equal(stream.end().text, '\ufffd');
});

test('a stop string spread over tokens ends the text before it; what might have become one comes later', () => {
  const stream = new TextStream(['world', 'wow']);
  const push = (text: string) => stream.push(Buffer.from(text));
  assert.deepEqual(push('Hello, w'), { text: 'Hello, ', stopped: false });
  assert.deepEqual(push('o'), { text: '', stopped: false });
  assert.deepEqual(push('x, wor'), { text: 'wox, ', stopped: false });
  assert.deepEqual(push('ld and more'), { text: '', stopped: true });
  assert.deepEqual(push('anything'), { text: '', stopped: false });
  assert.deepEqual(stream.end(), { text: '', stopped: false });
});

test('of two stop strings the one that begins first counts', () => {
  assert.equal(feed(Buffer.from('abcdef'), [6], ['de', 'cdefg', 'bcd']).text, 'a');
});

test('any text, cut anywhere, is given out whole; any bytes are what decoding them gives', () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1 });
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 60 }), lengths, (bytes, cuts) => {
      const { text, codePoints } = feed(bytes, cuts);
      assert.equal(text, new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes));
      assert.equal(codePoints, countCodePoints(text));
    }),
  );
});

test('a stop string is found wherever tokens end, and nothing of it is given out', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'é'), maxLength: 30 });
  const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'é'), minLength: 1, maxLength: 4 }), {
    maxLength: 3,
  });
  const lengths = fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1 });
  fc.assert(
    fc.property(letters, stops, lengths, (whole, wanted, cuts) => {
      const places = wanted.map((stop) => whole.indexOf(stop)).filter((at) => at >= 0);
      const { text, stopped } = feed(Buffer.from(whole), cuts, wanted);
      // A stream sees a stop string as soon as it is complete; a longer one that began earlier might have been completed later.
      if (places.length === 0) assert.deepEqual([text, stopped], [whole, false]);
      else {
        assert.ok(stopped);
        assert.ok(whole.startsWith(text));
        assert.ok(wanted.some((stop) => whole.startsWith(stop, text.length)));
        assert.ok(wanted.every((stop) => !text.includes(stop)));
      }
    }),
  );
});
