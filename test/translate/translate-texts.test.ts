import assert from 'node:assert/strict';
import { test } from 'node:test';
import { monotonicMs } from '../../src/clock.js';
import { ServerError } from '../../src/errors.js';
import { translateStream } from '../../src/translate/translate-stream.js';
import { type TranslateOptions, translateTexts } from '../../src/translate/translate-texts.js';
import type { TranslateSettings } from '../../src/translate/types.js';
import { ByteTokenizer } from '../fakes.js';
import { MODEL, SETTINGS, SpeakingEngine } from './speaking-engine.js';

const NEVER = new AbortController().signal;

function translate(
  engine: SpeakingEngine,
  texts: readonly string[],
  settings: Partial<TranslateSettings> = {},
  options: Partial<TranslateOptions> = {},
) {
  return translateTexts(
    { engine, tokenizer: new ByteTokenizer(), model: MODEL },
    texts.map((text, i) => ({ text, param: `input[${i}]` })),
    { ...SETTINGS, ...settings },
    { signal: NEVER, deadlineAtMs: null, ...options },
  );
}

function numbered(count: number): string {
  return Array.from({ length: count }, (_, i) => `This is number${'abcdefghij'[i % 10]} of them.`).join(' ');
}

test('texts come back in their order, with their white space and line breaks', async () => {
  const engine = new SpeakingEngine();
  engine.order = (count) => Array.from({ length: count }, (_, i) => count - 1 - i);
  const { texts } = await translate(engine, [' One.\n\n\tTwo.  Three. \r\n', '', ' \n ', '12 🎉', '- four\n- five']);
  assert.deepEqual(
    texts.map(({ text }) => text),
    [' ONE.\n\n\tTWO.  THREE. \r\n', '', ' \n ', '12 🎉', '- FOUR\n- FIVE'],
  );
  assert.deepEqual(
    texts.map(({ sentences }) => sentences.length),
    [3, 0, 0, 0, 2],
  );
  const [first] = texts;
  for (const { offset, source } of first?.sentences ?? []) {
    assert.equal(' One.\n\n\tTwo.  Three. \r\n'.slice(offset, offset + source.length), source);
  }
});

test('a wrapped sentence is one sentence, wrapped over as many lines', async () => {
  const text =
    'This is a paragraph that was wrapped by hand at some column, and so every\n  line of it goes on in the next one.';
  const { texts } = await translate(new SpeakingEngine(), [text]);
  assert.equal(texts[0]?.text, text.toUpperCase());
  assert.equal(texts[0]?.sentences.length, 1);
});

test('a sentence tells its tokens with their depths; its end counts in the result alone', async () => {
  const { texts } = await translate(new SpeakingEngine(), ['Hi you.']);
  const sentence = texts[0]?.sentences[0];
  assert.deepEqual(
    sentence?.sourceTokens.map(({ text, depth }) => `${text}${depth}`).join(' '),
    'H3 i3  3 y3 o3 u3 .3',
  );
  assert.deepEqual(sentence?.tokens[0], { id: 72, text: 'H', logprob: -0.5, depth: 2 });
  assert.equal(sentence?.tokens.length, 7);
  assert.equal(sentence?.result.encoderDepths.length, 8);
  assert.equal(sentence?.result.hypotheses[0]?.depths.length, 8);
  assert.deepEqual(sentence?.cost, {
    lanes: 1,
    encoderPositions: 8,
    encoderSteps: 24,
    decoderPositions: 8,
    decoderSteps: 16,
  });
});

test('alternatives are whole texts: the k-th best of each sentence, the last of one with fewer', async () => {
  const engine = new SpeakingEngine((s) => (s === 'One.' ? ['Eins.', 'Ein.', 'Einer.'] : ['Zwei.', 'Zwo.']));
  const { texts } = await translate(engine, ['One. Two.'], { beam: 4, alternatives: 3 });
  assert.equal(texts[0]?.text, 'Eins. Zwei.');
  assert.deepEqual(texts[0]?.alternatives, [
    { text: 'Ein. Zwo.', score: -1.5 },
    { text: 'Einer. Zwo.', score: -2 },
  ]);
  await assert.rejects(translate(engine, ['One.'], { alternatives: 1 }), /alternatives must be below beam/);
});

test('progress tells pieces in order, that make the text, and tokens of the first unfinished sentence alone', async () => {
  const engine = new SpeakingEngine();
  engine.order = (count) => Array.from({ length: count }, (_, i) => count - 1 - i);
  const events: string[] = [];
  const pieces: string[][] = [[], [], []];
  const { texts } = await translate(
    engine,
    ['One {x}. Two.\n', '42', ' Three. '],
    {},
    {
      streamTokens: true,
      progress: {
        piece: (index, piece, sentence) => {
          pieces[index]?.push(piece);
          events.push(`${index} ${sentence?.source ?? '-'}`);
        },
        token: (index, { text }, soFar) => events.push(`${index} ${text}|${soFar}`),
      },
    },
  );
  assert.deepEqual(
    pieces.map((own) => own.join('')),
    texts.map(({ text }) => text),
  );
  assert.deepEqual(pieces[0], ['ONE {x}.', ' TWO.\n']);
  const heads = events.filter((event) => !event.includes('|'));
  assert.deepEqual(heads, ['0 One {x}.', '0 Two.', '1 -', '2 Three.']);
  assert.deepEqual(
    events.slice(0, 8).map((event) => event.split('|')[1]),
    ['O', 'ON', 'ONE', 'ONE ', 'ONE ', 'ONE {x}', 'ONE {x}.', undefined],
    'a stand-in is held back until it is known',
  );
});

test('a long text goes in jobs of a few dozen sentences, a bounded number at a time', async () => {
  const engine = new SpeakingEngine();
  engine.before = () => new Promise(setImmediate);
  const { texts } = await translate(engine, [numbered(3000)]);
  assert.equal(texts[0]?.text, numbered(3000).toUpperCase());
  assert.equal(texts[0]?.sentences.length, 3000);
  assert.ok(engine.lanesMost <= 256, `${engine.lanesMost} lanes at once`);
  for (const { sentences } of engine.translations) assert.ok(sentences.length <= 32);
  assert.ok(engine.translations.length < 300, `${engine.translations.length} jobs`);
});

test('a reader that is slow holds up the work, not the memory', async () => {
  const engine = new SpeakingEngine();
  let delivered = 0;
  let most = 0;
  await translateStream(
    { engine, tokenizer: new ByteTokenizer(), model: MODEL },
    [{ text: numbered(2000) }],
    SETTINGS,
    { signal: NEVER, deadlineAtMs: null },
    {
      sentence: async () => {
        most = Math.max(most, engine.heard.length - delivered++);
        await new Promise(setImmediate);
      },
      untranslated: () => {},
    },
  );
  assert.equal(delivered, 2000);
  assert.ok(most <= 500, `${most} sentences ahead`);
});

test('a queue that is full at once refuses the request; one that fills later makes it wait', async () => {
  const full = new SpeakingEngine();
  full.before = () => {
    throw new ServerError('QUEUE_FULL', 'full');
  };
  const pieces: string[] = [];
  const progress = { piece: (_: number, piece: string) => void pieces.push(piece), token: () => {} };
  await assert.rejects(translate(full, [numbered(100)], {}, { progress }), { code: 'QUEUE_FULL' });
  assert.deepEqual(pieces, []);

  const later = new SpeakingEngine();
  let refusals = 0;
  later.before = () => {
    if (later.translations.length % 3 === 2 && refusals++ < 5) throw new ServerError('QUEUE_FULL', 'full');
  };
  const { texts } = await translate(later, [numbered(500)]);
  assert.ok(refusals >= 5);
  assert.equal(texts[0]?.text, numbered(500).toUpperCase());
});

test('waiting for the queue ends with the deadline', async () => {
  const engine = new SpeakingEngine();
  engine.before = () => {
    if (engine.translations.length > 1) throw new ServerError('QUEUE_FULL', 'full');
  };
  const deadlineAtMs = monotonicMs() + 60;
  await assert.rejects(translate(engine, [numbered(100)], {}, { deadlineAtMs }), { code: 'DEADLINE_EXCEEDED' });
});

test('an abort ends all jobs and is told once', async () => {
  const engine = new SpeakingEngine();
  const stop = new AbortController();
  let aborted = 0;
  engine.before = async (_, signal) => {
    signal.addEventListener('abort', () => aborted++);
    if (engine.translations.length === 3) stop.abort();
    if (signal.aborted) return;
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  };
  await assert.rejects(translate(engine, [numbered(200)], {}, { signal: stop.signal }), { code: 'CLIENT_CLOSED' });
  await new Promise(setImmediate);
  assert.equal(engine.lanes, 0);
  assert.equal(aborted, engine.translations.length);
  await assert.rejects(translate(engine, ['One.'], {}, { signal: stop.signal }), { code: 'CLIENT_CLOSED' });
});

test('an error of one job is the error of the request, and ends the others', async () => {
  const engine = new SpeakingEngine();
  engine.before = async (_, signal) => {
    if (engine.translations.length === 2) throw new ServerError('ENGINE_LOST', 'gone');
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  };
  await assert.rejects(translate(engine, [numbered(200)]), { code: 'ENGINE_LOST' });
  await new Promise(setImmediate);
  assert.equal(engine.lanes, 0);
});

test('the main thread stays free while a megabyte is translated', async () => {
  const text = 'Hello there. '.repeat(20_000);
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  const { texts } = await translate(new SpeakingEngine(), [text]);
  clearInterval(timer);
  assert.equal(texts[0]?.text, text.toUpperCase());
  assert.ok(turns > 20, `${turns} turns`);
});

test('bad input passes as it is', async () => {
  const texts = ['x'.repeat(1 << 20), '🎉'.repeat(1000), '\0\u0001\u001b[31m', 'Привет, мир!', '\ud800', '', ' '];
  const { texts: results } = await translate(new SpeakingEngine(), texts);
  texts.forEach((text, i) => {
    assert.ok(results[i]?.text === text, `text ${i}`);
  });
  const mixed = await translate(new SpeakingEngine(), ['The word 東京 and \ud800 and \0 stay 🎉 here.']);
  assert.equal(mixed.texts[0]?.text, 'THE WORD 東京 AND \ud800 AND \0 STAY 🎉 HERE.');
});
