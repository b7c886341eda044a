/** The shipped models and the real engine: one comes and goes while the other is asked without a pause, and nothing is lost. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { monotonicMs } from '../../src/clock.js';
import { parseConfig } from '../../src/config.js';
import { startEngine } from '../../src/engine/start.js';
import { Admission } from '../../src/http/admission.js';
import { buildApp } from '../../src/http/app.js';
import { KeyRing } from '../../src/http/key-ring.js';
import { guessingDetector } from '../../src/http/language-detector.js';
import { ModelRepository } from '../../src/http/model-repository.js';
import { createMetrics } from '../../src/metrics/metrics.js';
import { Observer } from '../../src/metrics/observe.js';
import { loadModels } from '../../src/models/registry.js';
import { loadTokenizer } from '../../src/tokenize/tokenizer.js';

const MODELS = fileURLToPath(new URL('../../../models', import.meta.url));

test('load and unload under load', { timeout: 120_000 }, async () => {
  const config = parseConfig(['--models', MODELS, '--threads', '1'], {});
  const { models } = await loadModels({ folder: MODELS, only: ['ut-lm-en'], precision: 'int8' });
  const [scorer] = models;
  assert.ok(scorer);
  const engine = await startEngine(config, models);
  const admission = new Admission(config, engine);
  const tokenizers = new Map([[scorer.id, await loadTokenizer(scorer.folder)]]);
  const metrics = createMetrics(
    { requestsInWork: () => 0, engineRestarts: () => 0, engineReady: () => true, backlogSeconds: () => 0 },
    { latencyBucketsMs: [1], processMetrics: false },
  );
  const repository = new ModelRepository({ config, engine, admission, tokenizers, loadModels, loadTokenizer });
  const app = await buildApp({
    config,
    engine,
    admission,
    keys: new KeyRing([], config, { monotonicMs, unixMs: Date.now }),
    tls: null,
    repository,
    tokenizers,
    refused: () => repository.refused(),
    detector: guessingDetector,
    metrics,
    observer: new Observer(metrics),
    logger: false,
  });
  const post = (url: string, payload: object = {}) => app.inject({ method: 'POST', url, payload });
  const translate = () => post('/v1/translate', { input: 'The house is small.', model: 'ut-mt-ende' });

  let asking = true;
  const texts: string[] = [];
  const others = (async () => {
    while (asking) {
      const reply = await post('/v1/score', { input: 'In the beginning was the word.' });
      assert.equal(reply.statusCode, 200, reply.body);
      texts.push(JSON.stringify(reply.json().results));
    }
  })();

  assert.equal((await translate()).statusCode, 404);
  for (let round = 0; round < 2; round++) {
    assert.equal((await post('/v2/repository/models/ut-mt-ende/load')).statusCode, 200);
    assert.equal((await translate()).json().results[0].text, 'Das Haus ist klein.');
    const inWork = [translate(), translate()];
    await new Promise(setImmediate);
    const unloading = post('/v2/repository/models/ut-mt-ende/unload');
    for (const reply of await Promise.all(inWork)) assert.equal(reply.statusCode, 200, reply.body);
    assert.equal((await unloading).statusCode, 200);
    assert.equal((await translate()).statusCode, 404);
  }
  asking = false;
  await others;
  assert.ok(texts.length > 4);
  assert.equal(new Set(texts).size, 1, 'every score is the same to the last bit');
  assert.equal(engine.info().restarts, 0);
  await engine.drain(0);
  await app.close();
});
