/**
 * Translates token ids with the engine itself, without HTTP: what the measurements of translation drive (export/TRANSLATION.md).
 *
 *   node export/node/translate-driver.mjs [options of `ponder-serve serve`]
 *
 * It reads one JSON object a line and answers one a line, until its input ends:
 *   { requests, clients }   clients: requests in flight at a time, each one sentence or one text to score
 *   { results, seconds, stages }   results in the order of the requests; stages: what the engine's loop counted meanwhile
 * A request is { ids, encoder, decoder, beam, length_penalty, max_new_tokens }, where encoder and decoder are { max_steps, min_steps,
 * threshold }; all but ids may be left out. With `score: true` the ids are text for the language model. A refused request
 * ends the process with its error: no caller here means to send one.
 */
import { setMaxListeners } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout } from 'node:timers/promises';
import { monotonicMs } from '../../dist/src/clock.js';
import { parseConfig } from '../../dist/src/config.js';
import { startEngine } from '../../dist/src/engine/start.js';
import { loadModels } from '../../dist/src/models/registry.js';

const DRAIN_MS_MAX = 10_000;
/** The loop reports every 100 ms, and at once when it falls idle. */
const REPORT_MS_MAX = 300;
const SUMMED = ['steps', 'computeSeconds', 'hostSeconds', 'activeRows', 'renewedRows', 'keysUseful', 'keysComputed'];

function budgetOf(model, { max_steps, min_steps, threshold } = {}) {
  return {
    maxSteps: max_steps ?? model.maxSteps,
    minSteps: min_steps ?? 1,
    threshold: threshold ?? model.threshold,
  };
}

class Driver {
  #stages = new Map();
  #lanes = 0;
  #whenIdle = null;

  constructor(engine, signal) {
    this.engine = engine;
    this.signal = signal;
    engine.onTelemetry((report) => this.#add(report));
  }

  #add({ stages, lanesWaiting, lanesRunning }) {
    for (const report of stages) {
      const sums = this.#stages.get(report.stage) ?? Object.fromEntries(SUMMED.map((name) => [name, 0]));
      for (const name of SUMMED) sums[name] += report[name];
      this.#stages.set(report.stage, sums);
    }
    this.#lanes = lanesWaiting + lanesRunning;
    if (this.#lanes === 0) this.#whenIdle?.();
  }

  /** The answers to `requests`, `clients` of them in flight. */
  async answer({ requests, clients }) {
    this.#stages = new Map();
    const results = new Array(requests.length);
    let next = 0;
    const client = async () => {
      while (next < requests.length) {
        const index = next++;
        results[index] = await this.#ask(requests[index]);
      }
    };
    const startedAtMs = monotonicMs();
    await Promise.all(Array.from({ length: Math.min(clients ?? requests.length, requests.length) }, client));
    const seconds = (monotonicMs() - startedAtMs) / 1000;
    await this.#idle();
    return { results, seconds, stages: Object.fromEntries(this.#stages) };
  }

  /**
   * Resolves when the loop has reported that nothing is left. That report follows the last answer, or comes in one message with it and
   * has been counted; or the last one seen was of a pause before, so it is waited for a little.
   */
  async #idle() {
    const reported = new Promise((resolve) => {
      this.#whenIdle = resolve;
    });
    await Promise.race([reported, setTimeout(REPORT_MS_MAX)]);
    if (this.#lanes > 0) await reported;
  }

  #ask(request) {
    const task = request.score === true ? 'score' : 'translate';
    const model = this.engine.models().find((candidate) => candidate.task === task);
    if (model === undefined) throw new Error(`no model is loaded that can ${task}`);
    return task === 'score' ? this.#score(model, request) : this.#translate(model, request);
  }

  async #score(model, { ids }) {
    const windows = [{ ids: Int32Array.from(ids), scoreFrom: 0 }];
    const request = { model: model.id, windows, budget: budgetOf(model), topLogprobs: 0, deadlineAtMs: null };
    const [{ logprobs, depths }] = (await this.engine.score(request, this.signal)).windows;
    return { logprobs: [...logprobs], depths: [...depths] };
  }

  async #translate(model, { ids, encoder, decoder, beam = 1, length_penalty = 1, max_new_tokens }) {
    const outcome = await this.engine.translate(
      {
        model: model.id,
        sentences: [Int32Array.from(ids)],
        encoderBudget: budgetOf(model, encoder),
        decoderBudget: budgetOf(model, decoder),
        beam,
        lengthPenalty: length_penalty,
        maxNewTokens: [max_new_tokens ?? model.contextTokens - 1],
        streamTokens: false,
        deadlineAtMs: null,
      },
      this.signal,
    );
    const [{ hypotheses, encoderDepths, encoderSteps, decoderSteps, decoderPositions }] = outcome.sentences;
    return {
      hypotheses: hypotheses.map(({ ids, logprobs, depths, score, finishReason }) => ({
        ids: [...ids],
        logprobs: [...logprobs],
        depths: [...depths],
        score,
        finish_reason: finishReason,
      })),
      encoder_depths: [...encoderDepths],
      encoder_steps: encoderSteps,
      decoder_steps: decoderSteps,
      decoder_positions: decoderPositions,
    };
  }
}

async function main() {
  const config = parseConfig(process.argv.slice(2), {});
  const { models, refused } = await loadModels({
    folder: config.models,
    only: config.modelList.length > 0 ? config.modelList : null,
    precision: config.precision,
  });
  if (refused.length > 0) throw new Error(refused.map(({ id, reason }) => `${id}: ${reason}`).join('; '));
  const engine = await startEngine(config, models);
  const stop = new AbortController();
  setMaxListeners(0, stop.signal);
  const driver = new Driver(engine, stop.signal);
  process.stdout.write(`${JSON.stringify(engine.info())}\n`);
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(await driver.answer(JSON.parse(line)))}\n`);
  }
  await engine.drain(DRAIN_MS_MAX);
}

await main();
