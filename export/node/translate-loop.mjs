/**
 * The loops that a user of onnxruntime-node would write over the graphs of a translation package, without the engine: what
 * translation_compare.py compares it with.
 *
 *   node export/node/translate-loop.mjs PACKAGE PRECISION THREADS [cpu|cuda]
 *
 * It reads one JSON object a line and answers one a line: { ids, mode } -> { results: [{ ids, depths }], seconds }. Sentences go as one
 * batch. In every step all rows are computed until the deepest of the batch has halted, and what has halted is put back as it was,
 * which is what masks do in PyTorch; what a run returns is fed into the next run and nothing is bound beforehand. A sentence that has
 * ended leaves the batch. `mode`:
 *   recompute   no cache: every token computes all positions of the prefix again
 *   cache       keys and values of earlier positions are kept apart for each step, as those of a Transformer for each layer; a
 *               position fills all of them, since a later one may go deeper than it did
 * Depths and tokens are those of the engine, so both compute the same thing.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import * as ort from 'onnxruntime-node';
import { AttentionPlan, GROUP_FIELDS, layOut, paddedKeys } from '../../dist/src/scheduler/attention-plan.js';

/** The tensors that outlive a step, by the name under which a graph takes them; it returns them as `<name>_out`. */
const POOLS = ['state', 'accumulator', 'halting'];

const int32 = (values) => new ort.Tensor('int32', Int32Array.from(values), [values.length]);
const bools = (rows, value) => new ort.Tensor('bool', new Uint8Array(rows).fill(value ? 1 : 0), [rows, 1]);
const matrix = (data, columns) => new ort.Tensor('float32', data, [data.length / columns, columns]);
const zeros = (rows, columns) => matrix(new Float32Array(rows * columns), columns);
const range = (count) => Array.from({ length: count }, (_, i) => i);

/** Row `row` of one matrix over the same row of another. */
function copyRow(from, to, row) {
  const columns = from.dims[1];
  to.data.set(from.data.subarray(row * columns, (row + 1) * columns), row * columns);
}

class Loop {
  constructor(sessions, { width, maxSteps, threshold, bosId, eosId, maxNewTokens }) {
    Object.assign(this, { sessions, width, maxSteps, threshold, bosId, eosId, maxNewTokens });
  }

  async translate(sources, mode) {
    const memory = await this.#encode(sources);
    const results = sources.map(() => ({ ids: [], depths: [] }));
    const prefixes = sources.map(() => [this.bosId]);
    const caches = range(this.maxSteps).map(() => ({ keys: zeros(0, this.width), values: zeros(0, this.width) }));
    let alive = range(sources.length);
    for (let position = 0; alive.length > 0 && position < this.maxNewTokens; position++) {
      const step = { alive, position, prefixes, memory, batch: sources.length };
      const said = mode === 'cache' ? await this.#withCache(step, caches) : await this.#recompute(step);
      alive.forEach((sentence, row) => {
        results[sentence].depths.push(said.depths[row]);
        prefixes[sentence].push(said.ids[row]);
        if (said.ids[row] !== this.eosId) results[sentence].ids.push(said.ids[row]);
      });
      alive = alive.filter((_, row) => said.ids[row] !== this.eosId);
    }
    return results;
  }

  /** Keys and values of the encoded sentences, and where each sentence's lie. */
  async #encode(sources) {
    const rows = sources.reduce((sum, { length }) => sum + length, 0);
    let first = 0;
    const places = sources.map((ids) => range(ids.length).map(() => first++));
    const units = places.map((keyRows) => unit(keyRows[0], keyRows, new Array(keyRows.length).fill(keyRows.length)));
    const cache = { keys: zeros(rows, this.width), values: zeros(rows, this.width) };
    const { accumulator } = await this.#ponder(this.sessions.encoder_step, {
      ids: sources.flat(),
      positions: sources.flatMap((ids) => range(ids.length)),
      caches: new Array(this.maxSteps).fill(cache),
      cacheRows: range(rows),
      feeds: this.#attention('', units, rows),
    });
    const out = await this.sessions.encoder_finish.run({
      accumulator,
      slots: int32(range(rows)),
      memory_rows: int32(range(rows)),
      memory_keys: zeros(rows, this.width),
      memory_values: zeros(rows, this.width),
    });
    return { keys: out.memory_keys_out, values: out.memory_values_out, places };
  }

  /** One new row a sentence; its keys and values of each step join those of the positions before. */
  async #withCache({ alive, position, prefixes, memory, batch }, caches) {
    for (const cache of caches) {
      for (const name of ['keys', 'values']) {
        const grown = zeros((position + 1) * batch, this.width);
        grown.data.set(cache[name].data);
        cache[name] = grown;
      }
    }
    const visible = [position + 1];
    const units = alive.map((sentence, row) => unit(row, range(position + 1).map((p) => p * batch + sentence), visible));
    const { accumulator, depths } = await this.#ponder(this.sessions.decoder_step, {
      ids: alive.map((sentence) => prefixes[sentence].at(-1)),
      positions: alive.map(() => position),
      caches,
      cacheRows: alive.map((sentence) => position * batch + sentence),
      fillsAll: true,
      feeds: {
        ...this.#attention('', units, alive.length),
        ...this.#memoryFeeds(memory, alive, 1),
      },
    });
    return { ids: await this.#best(accumulator, range(alive.length)), depths };
  }

  async #recompute({ alive, position, prefixes, memory }) {
    const length = position + 1;
    const rows = alive.length * length;
    const visible = range(length).map((p) => p + 1);
    const units = alive.map((_, i) => unit(i * length, range(length).map((p) => i * length + p), visible));
    const cache = { keys: zeros(rows, this.width), values: zeros(rows, this.width) };
    const { accumulator, depths } = await this.#ponder(this.sessions.decoder_step, {
      ids: alive.flatMap((sentence) => prefixes[sentence]),
      positions: alive.flatMap(() => range(length)),
      caches: new Array(this.maxSteps).fill(cache),
      cacheRows: range(rows),
      feeds: {
        ...this.#attention('', units, rows),
        ...this.#memoryFeeds(memory, alive, length),
      },
    });
    const last = alive.map((_, i) => i * length + position);
    return { ids: await this.#best(accumulator, last), depths: last.map((row) => depths[row]) };
  }

  #memoryFeeds(memory, alive, length) {
    const units = alive.map((sentence, i) => {
      const keyRows = memory.places[sentence];
      return unit(i * length, keyRows, new Array(length).fill(keyRows.length));
    });
    const tables = this.#attention('memory_', units, alive.length * length);
    return { memory_keys: memory.keys, memory_values: memory.values, ...tables };
  }

  /** Steps all rows until the deepest has halted. `caches[t - 1]` is read and replaced at step t; the same one at each if they are one. */
  async #ponder(session, { ids, positions, caches, cacheRows, fillsAll = false, feeds }) {
    const rows = ids.length;
    const slots = int32(range(rows));
    const first = { state: zeros(rows, this.width), accumulator: zeros(rows, this.width), halting: zeros(rows, 1) };
    let pools = poolsOf(await this.sessions.begin.run({ ids: int32(ids), slots, ...first }));
    const constant = {
      ...feeds,
      slots,
      cache_rows: int32(cacheRows),
      position: int32(positions),
      threshold: new ort.Tensor('float32', new Float32Array(rows).fill(this.threshold), [rows, 1]),
      is_held: bools(rows, false),
    };
    const depths = new Array(rows).fill(0);
    let left = rows;
    let t = 0;
    // A halted position renews its key and value once more, so a cache that later positions read needs one step beyond the deepest.
    for (let ending = false; t < this.maxSteps && !ending; ) {
      t += 1;
      ending = left === 0;
      if (ending && !fillsAll) break;
      // Under `freeze` keys and values stay those of the step after a position's last.
      const steps = int32(depths.map((depth) => (depth === 0 ? t : Math.min(t, depth + 1))));
      const cache = caches[t - 1];
      const isLast = bools(rows, t === this.maxSteps);
      const out = await session.run({ ...pools, ...cache, ...constant, step: steps, is_last: isLast });
      cache.keys = out.keys_out;
      cache.values = out.values_out;
      const next = poolsOf(out);
      for (let row = 0; row < rows; row++) {
        if (depths[row] !== 0) {
          for (const name of POOLS) copyRow(pools[name], next[name], row);
        } else if (out.halted.data[row] !== 0) {
          depths[row] = t;
          left -= 1;
        }
      }
      pools = next;
    }
    if (fillsAll) {
      for (const deeper of caches.slice(t)) {
        for (const row of cacheRows) {
          copyRow(caches[t - 1].keys, deeper.keys, row);
          copyRow(caches[t - 1].values, deeper.values, row);
        }
      }
    }
    return { accumulator: pools.accumulator, depths };
  }

  async #best(accumulator, slots) {
    const k = new ort.Tensor('int64', BigInt64Array.of(1n), [1]);
    const out = await this.sessions.decoder_finish.run({ accumulator, slots: int32(slots), k });
    return [...out.top_ids.data];
  }

  #attention(prefix, units, rows) {
    const plan = new AttentionPlan(rows);
    layOut(units, rows, this.width, plan);
    const { groupCount, queryCount, keyCount } = plan;
    const groups = plan.groups.slice(0, groupCount * GROUP_FIELDS);
    return {
      [`${prefix}groups`]: new ort.Tensor('int64', groups, [groupCount, GROUP_FIELDS]),
      [`${prefix}query_index`]: int32(plan.queryIndex.subarray(0, queryCount)),
      [`${prefix}visible`]: int32(plan.visible.subarray(0, queryCount)),
      [`${prefix}key_index`]: int32(plan.keyIndex.subarray(0, keyCount)),
      [`${prefix}row`]: int32(plan.row.subarray(0, rows)),
    };
  }
}

function unit(firstRow, keyRows, visible) {
  const queries = visible.length;
  return { firstRow, visible, keyRows: Int32Array.from(keyRows), queries, keys: paddedKeys(keyRows.length) };
}

function poolsOf(out) {
  return Object.fromEntries(POOLS.map((name) => [name, out[`${name}_out`]]));
}

async function openSessions(folder, graphs, threads, provider) {
  const options = {
    executionProviders: [provider],
    graphOptimizationLevel: 'all',
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 3,
  };
  const opened = Object.entries(graphs).map(async ([name, { file }]) => [
    name,
    await ort.InferenceSession.create(join(folder, file), options),
  ]);
  return Object.fromEntries(await Promise.all(opened));
}

async function main() {
  const [folder, precision, threads, provider = 'cpu'] = process.argv.slice(2);
  const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'));
  const loop = new Loop(await openSessions(folder, manifest.precisions[precision], Number(threads), provider), {
    width: manifest.dimensions.d_model,
    maxSteps: manifest.halting.max_steps,
    threshold: manifest.halting.threshold,
    bosId: manifest.tokens.bos,
    eosId: manifest.tokens.eos,
    maxNewTokens: manifest.dimensions.context - 1,
  });
  process.stdout.write(`${JSON.stringify({ ready: true })}\n`);
  for await (const line of createInterface({ input: process.stdin })) {
    const { ids, mode } = JSON.parse(line);
    const startedAtMs = performance.now();
    const results = await loop.translate(ids, mode);
    const seconds = (performance.now() - startedAtMs) / 1000;
    process.stdout.write(`${JSON.stringify({ results, seconds })}\n`);
  }
}

await main();
