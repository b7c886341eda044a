import assert from 'node:assert/strict';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { ServerError } from '../../src/errors.js';
import { CompletionEvents } from '../../src/http/completion-events.js';

const piece = (said: string) => ({ text: said, tokens: [] });

test('what a reader has not taken is put together: one event a choice, whatever was said meanwhile', async () => {
  const events = new CompletionEvents({ id: 'x' }, false, false);
  // Nobody reads: the stream takes what fits its own buffer (16 KiB), the rest waits here.
  for (let i = 0; i < 10_000; i++) {
    events.add(0, piece('0123456789'));
    events.add(1, piece('ab'));
  }
  assert.ok(events.waiting <= 2);
  events.add(0, piece(''), 'length');
  events.add(1, piece(''), 'stop');
  events.finish({ usage: 1 });
  const body = await text(events.stream);
  const blocks = body.split('\n\n').filter((block) => block !== '');
  assert.ok(blocks.length < 400, `${blocks.length} events`);
  assert.equal(blocks.pop(), 'data: [DONE]');
  const choices = blocks.map((block) => JSON.parse(block.slice(6)).choices[0]);
  for (const [index, said, reason] of [
    [0, '0123456789', 'length'],
    [1, 'ab', 'stop'],
  ] as const) {
    const own = choices.filter((choice) => choice.index === index);
    assert.equal(own.map((choice) => choice.text).join(''), said.repeat(10_000));
    assert.equal(own.at(-1).finish_reason, reason);
  }
});

test('the first piece is an event at once; nothing said is no event', async () => {
  const events = new CompletionEvents({}, false, false);
  events.add(0, piece(''));
  assert.equal(events.stream.readableLength, 0);
  events.stream.read(0);
  events.add(0, piece('a'));
  assert.match(String(events.stream.read()), /"text":"a"/);
  events.fail(new ServerError('ENGINE_LOST', 'gone'));
  events.add(0, piece('b'));
  assert.match(await text(events.stream), /^data: \{"error":\{"code":"ENGINE_LOST"[^\n]*\n\n$/);
});

test('a stream that its reader has left takes nothing more', () => {
  const events = new CompletionEvents({}, false, true);
  events.stream.destroy();
  events.add(0, piece('a'));
  assert.equal(events.waiting, 0);
  events.finish({});
});
