/** The shipped packages, one server for all tests: what a user of both models gets over HTTP. */
import assert from 'node:assert/strict';
import type { AddressInfo } from 'node:net';
import { after, before, test } from 'node:test';
import { Value } from 'typebox/value';
import { monotonicMs } from '../../src/clock.js';
import { parseConfig } from '../../src/config.js';
import type { EngineTelemetry } from '../../src/engine/protocol.js';
import { type StartedEngine, startEngine } from '../../src/engine/start.js';
import { Admission } from '../../src/http/admission.js';
import { buildApp } from '../../src/http/app.js';
import type { App } from '../../src/http/deps.js';
import { KeyRing } from '../../src/http/key-ring.js';
import { loadLanguageDetector } from '../../src/http/language-detector.js';
import { ModelRepository } from '../../src/http/model-repository.js';
import type { ScoreReply } from '../../src/http/schemas.js';
import { TranslateReply } from '../../src/http/translate-schemas.js';
import { createMetrics } from '../../src/metrics/metrics.js';
import { Observer } from '../../src/metrics/observe.js';
import { loadModels } from '../../src/models/registry.js';
import { loadTokenizer } from '../../src/tokenize/tokenizer.js';

let app: App;
let engine: StartedEngine;
let url = '';

before(
  async () => {
    const config = parseConfig(['--model-list', 'ut-lm-en,ut-mt-ende', '--threads', '1'], {});
    const { models, refused } = await loadModels({ folder: config.models, only: config.modelList, precision: 'int8' });
    assert.deepEqual(refused, []);
    engine = await startEngine(config, models);
    const admission = new Admission(config, engine);
    const sources = {
      requestsInWork: () => admission.requestsInWork,
      engineRestarts: () => engine.info().restarts,
      engineReady: () => engine.info().state === 'ready',
      backlogSeconds: () => 0,
    };
    const metrics = createMetrics(sources, { latencyBucketsMs: config.latencyBucketsMs, processMetrics: false });
    const tokenizers = new Map(
      await Promise.all(
        models.map(
          async ({ id, folder, vocabularySize }) => [id, await loadTokenizer(folder, vocabularySize)] as const,
        ),
      ),
    );
    const [observer, detector] = [new Observer(metrics), await loadLanguageDetector()];
    const deps = {
      config,
      engine,
      admission,
      keys: new KeyRing([], config, { monotonicMs, unixMs: Date.now }),
      tls: null,
      repository: new ModelRepository({ config, engine, admission, tokenizers, loadModels, loadTokenizer }),
      tokenizers,
      detector,
      metrics,
      observer,
      refused: () => [],
      logger: false,
    };
    app = await buildApp(deps);
    await app.listen({ host: '127.0.0.1', port: 0 });
    url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
  },
  { timeout: 60_000 },
);

after(async () => {
  await engine.drain(0);
  app.server.closeAllConnections();
  await app.close();
});

const LIMITED = { timeout: 60_000 };

function post(path: string, body: object, signal?: AbortSignal): Promise<Response> {
  const headers = { 'content-type': 'application/json' };
  return fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body), ...(signal ? { signal } : {}) });
}

async function translate(body: object): Promise<TranslateReply> {
  const reply = await post('/v1/translate', body);
  const parsed = (await reply.json()) as TranslateReply;
  assert.ok(Value.Check(TranslateReply, parsed), JSON.stringify(parsed).slice(0, 500));
  return parsed;
}

const SOURCE = 'The house is small, but the garden is very large.';

test('a sentence becomes German, its depths within the bound and its sums those of its tokens', LIMITED, async () => {
  const { results, usage, timing } = await translate({ input: SOURCE });
  const [result] = results;
  assert.match(result?.text ?? '', /Haus.*Garten/);
  assert.equal(result?.finish_reason, 'stop');
  assert.equal(
    result?.tokens
      ?.map(({ text }) => text)
      .join('')
      .trim(),
    result?.text,
  );
  for (const { depth, logprob } of result?.tokens ?? []) assert.ok(depth >= 1 && depth <= 6 && logprob <= 0);
  assert.ok(usage.position_steps > 0 && usage.position_steps < usage.position_steps_fixed);
  assert.equal(usage.source_tokens, (result?.source_tokens?.length ?? 0) + 1);
  assert.ok(timing.first_token_ms > 0 && timing.first_token_ms < timing.total_ms);
  assert.ok(timing.queue_ms > 0 && timing.compute_ms > 0, JSON.stringify(timing));
});

test('a list gives what each text gives alone, while scores are asked for', LIMITED, async () => {
  const input = [SOURCE, 'Good morning.', '', 'I bought two books in Berlin, and he bought 17.'];
  const scoring = post('/v1/score', { input: SOURCE, return_tokens: false });
  const [together, ...alone] = await Promise.all([
    translate({ input }),
    ...input.map((text) => translate({ input: text })),
  ]);
  assert.deepEqual(
    together?.results.map((result) => ({ ...result, index: 0 })),
    alone.map(({ results }) => results[0]),
  );
  const scored = (await (await scoring).json()) as ScoreReply;
  assert.equal(scored.model, 'ut-lm-en');
  assert.ok((scored.results[0]?.logprob ?? 0) < 0);
});

test('as a stream: the same text and the same sums', LIMITED, async () => {
  const body = { input: [`${SOURCE} It rains.`, 'Good morning.'] };
  const { results, usage } = await translate(body);
  const events = (await (await post('/v1/translate', { ...body, stream: true })).text())
    .split('\n\n')
    .filter((block) => block.startsWith('data: {'))
    .map((block) => JSON.parse(block.slice(6)));
  for (const { index, text } of results) {
    const pieces = events.filter((event) => event.type === 'sentence' && event.index === index);
    assert.equal(pieces.map((event) => event.text).join(''), text);
  }
  assert.ok(events.some(({ type }) => type === 'token'));
  assert.deepEqual(events.at(-1).usage, usage);
});

test('a beam finds alternatives, the best first; a tighter budget costs less', LIMITED, async () => {
  const { results, usage } = await translate({ input: SOURCE, alternatives: 3 });
  const { text = '', alternatives = [] } = results[0] ?? {};
  assert.equal(new Set([text, ...alternatives.map((other) => other.text)]).size, 4);
  const scores = alternatives.map(({ score }) => score);
  assert.deepEqual(
    scores,
    scores.toSorted((a, b) => b - a),
  );
  const tight = await translate({ input: SOURCE, alternatives: 3, max_steps: 2 });
  assert.ok(tight.usage.position_steps < usage.position_steps);
  assert.ok((tight.results[0]?.ponder.encoder.max ?? 9) <= 2 && (tight.results[0]?.ponder.decoder.max ?? 9) <= 2);
});

test("LibreTranslate's contract: detection, HTML, and German into German", LIMITED, async () => {
  const ask = async (body: object) => (await post('/translate', { target: 'de', ...body })).json();
  const auto = (await ask({ q: SOURCE, source: 'auto' })) as { translatedText: string; detectedLanguage: object };
  assert.match(auto.translatedText, /Haus/);
  assert.equal((auto.detectedLanguage as { language: string }).language, 'en');
  const html = (await ask({ q: `<p class="a">${SOURCE}</p>`, source: 'en', format: 'html' })) as typeof auto;
  assert.match(html.translatedText, /^<p class="a">[^<]*Haus[^<]*<\/p>$/);
  const same = (await ask({ q: 'Das Haus ist klein.', source: 'auto' })) as typeof auto;
  assert.equal(same.translatedText, 'Das Haus ist klein.');
});

test(
  'odd texts pass or are translated, never lost: no spaces, emoji, other scripts, control characters',
  LIMITED,
  async () => {
    const input = [
      'x'.repeat(3000),
      '😀😀',
      'こんにちは',
      'a\u0000b\u001f',
      '\u202Ehello',
      '{name} https://example.org/a?b=c',
    ];
    const { results } = await translate({ input, return_tokens: false });
    assert.equal(results.length, input.length);
    assert.match(results.at(-1)?.text ?? '', /\{name\}.*https:\/\/example\.org\/a\?b=c/);
  },
);

test('metrics tell the stacks apart; a hang-up in the middle of a stream empties the engine', LIMITED, async () => {
  const emptied = new Promise<EngineTelemetry>((resolve) => {
    const stop = engine.onTelemetry((telemetry) => {
      const { lanesRunning, lanesWaiting, cacheRowsUsed, slotsUsed } = telemetry;
      if (!begun || lanesRunning + lanesWaiting + cacheRowsUsed + slotsUsed > 0) return;
      stop();
      resolve(telemetry);
    });
  });
  let begun = false;
  const hangUp = new AbortController();
  const reply = await post('/v1/translate', { input: new Array(200).fill(SOURCE), stream: true }, hangUp.signal);
  await reply.body?.getReader().read();
  begun = true;
  hangUp.abort();
  assert.equal((await emptied).cacheRowsUsed, 0);
  const page = await (await fetch(`${url}/metrics`)).text();
  for (const stage of ['encoder', 'decoder']) {
    assert.match(page, new RegExp(`ponder_position_steps_total\\{model="ut-mt-ende",stage="${stage}"\\} \\d`));
    assert.match(page, new RegExp(`ponder_steps_per_token_count\\{model="ut-mt-ende",stage="${stage}"\\} \\d`));
  }
  assert.match(page, /ponder_position_steps_total\{model="ut-lm-en",stage="score"\} \d/);
  assert.match(page, /ponder_sentences_total\{model="ut-mt-ende",finished_reason="stop"\} \d/);
  assert.match(page, /ponder_time_to_first_token_seconds_count\{model="ut-mt-ende"\} \d/);
});
