/** The package in git, models/span-lm-bytes: its golden texts, and what may not change them. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { parseConfig } from '../../src/config.js';
import type { SpanRequest } from '../../src/engine/engine.js';
import { type StartedEngine, startEngine } from '../../src/engine/start.js';
import type { ModelDescription, SpanDescription } from '../../src/models/description.js';
import type { Precision } from '../../src/models/manifest.js';
import { loadModels } from '../../src/models/registry.js';

const NEVER = new AbortController().signal;
const LIMITED = { timeout: 120_000 };
const NAME = 'span-lm-bytes';

type SpanModel = ModelDescription & { readonly span: SpanDescription };

async function open(
  precision: Precision,
  argv: readonly string[] = [],
): Promise<{ engine: StartedEngine; model: SpanModel }> {
  const config = parseConfig(['--threads', '1', '--precision', precision, '--span-lanes-max', '20', ...argv], {});
  const { models, refused } = await loadModels({ folder: config.models, only: [NAME], precision });
  const [model] = models;
  assert.ok(model?.span !== undefined, refused[0]?.reason);
  return { engine: await startEngine(config, models), model: { ...model, span: model.span } };
}

let int8: Awaited<ReturnType<typeof open>>;
let golden: readonly { readonly ids: readonly number[]; readonly logprobs: readonly number[] }[];
before(async () => {
  int8 = await open('int8');
  golden = JSON.parse(readFileSync(join(int8.model.folder, 'golden.json'), 'utf8'));
}, LIMITED);
after(() => int8.engine.drain(0));

function request(texts: readonly (readonly number[])[], changes: Partial<SpanRequest> = {}): SpanRequest {
  const rest = { spanCap: null, topLogprobs: 0, session: null, deadlineAtMs: null };
  return { model: NAME, texts: texts.map((ids) => Int32Array.from(ids)), ...rest, ...changes };
}

async function score(
  engine: StartedEngine,
  ids: readonly number[],
  changes: Partial<SpanRequest> = {},
): Promise<Float32Array> {
  const { texts } = await engine.scoreStream(request([ids], changes), NEVER);
  return texts[0]?.logprobs ?? new Float32Array(0);
}

const sum = (values: ArrayLike<number>) => Array.from(values).reduce((total, value) => total + value, 0);

function assertNear(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
  assert.equal(got.length, want.length);
  for (let i = 0; i < got.length; i++) {
    const off = Math.abs((got[i] as number) - (want[i] as number));
    assert.ok(off <= tolerance, `token ${i}: ${got[i]} instead of ${want[i]}`);
  }
}

for (const block of ['64', '256']) {
  test(
    `float32, blocks of ${block}: the golden log-probabilities, at once, in sessions, and under a cap that caps nothing`,
    LIMITED,
    async () => {
      const { engine, model } = await open('float32', ['--span-block-tokens', block]);
      try {
        for (const { ids, logprobs } of golden) assertNear(await score(engine, ids), logprobs, 1.5e-4);
        const { ids, logprobs } = golden.at(-1) as (typeof golden)[number];
        assertNear(await score(engine, ids, { spanCap: model.span.spanMax }), logprobs, 1.5e-4);
        const first = await score(engine, ids.slice(0, 777), { session: { key: 's', continues: false, ends: false } });
        const rest = await score(engine, ids.slice(777), { session: { key: 's', continues: true, ends: true } });
        assertNear([...first, ...rest], logprobs, 1.5e-4);
      } finally {
        await engine.drain(0);
      }
    },
  );
}

test('int8 is at most 0.5 % worse than PyTorch on the package, over all golden texts', LIMITED, async () => {
  let [got, want] = [0, 0];
  for (const { ids, logprobs } of golden) {
    got += sum(await score(int8.engine, ids));
    want += sum(logprobs);
  }
  assert.ok(got / want - 1 <= 0.005, `${got} nats instead of ${want}`);
});

test(
  'int8 is the same bit for bit in any company: other lengths, other caps, other places in their texts',
  LIMITED,
  async () => {
    const text = (golden.at(-1)?.ids ?? []).slice(0, 700);
    const orders = [1, 16, 17, 128, 129, 300, 511, 640].flatMap((length) =>
      [null, 0, 100].map((spanCap) => ({ ids: text.slice(0, length), spanCap })),
    );
    const alone: Float32Array[] = [];
    for (const { ids, spanCap } of orders) alone.push(await score(int8.engine, ids, { spanCap }));
    const together = await Promise.all(orders.map(({ ids, spanCap }) => score(int8.engine, ids, { spanCap })));
    assert.deepEqual(together, alone);
  },
);

test('int8 is the same bit for bit whatever the length of blocks', LIMITED, async () => {
  const ids = (golden.at(-1)?.ids ?? []).slice(0, 700);
  const lengths = [1, 63, 64, 65, 300, 700];
  for (const blockTokens of ['64', '512']) {
    const { engine } = await open('int8', ['--span-block-tokens', blockTokens]);
    try {
      for (const length of lengths) {
        const text = ids.slice(0, length);
        assert.deepEqual(
          await score(engine, text),
          await score(int8.engine, text),
          `${length} in blocks of ${blockTokens}`,
        );
      }
    } finally {
      await engine.drain(0);
    }
  }
});

test('int8: the parts of a session are the same bit for bit as the whole, wherever it is cut', LIMITED, async () => {
  const ids = (golden.at(-1)?.ids ?? []).slice(0, 700);
  const whole = await score(int8.engine, ids);
  for (const cuts of [[37], [1, 2, 63, 64, 65, 300], [64, 192], [699]]) {
    const parts: number[] = [];
    for (const [i, from] of [0, ...cuts].entries()) {
      const to = cuts[i] ?? ids.length;
      const session = { key: `cut ${cuts}`, continues: i > 0, ends: to === ids.length };
      parts.push(...(await score(int8.engine, ids.slice(from, to), { session })));
    }
    assert.deepEqual(Float32Array.from(parts), whole, `cut at ${cuts}`);
  }
});

test('a cap shortens what is computed, and costs log-probability', LIMITED, async () => {
  const ids = golden.at(-1)?.ids ?? [];
  const [free, capped] = [await score(int8.engine, ids), await score(int8.engine, ids, { spanCap: 0 })];
  assert.ok(sum(free) > sum(capped) + 10, 'the text repeats itself at a distance that only wide heads see');
});
