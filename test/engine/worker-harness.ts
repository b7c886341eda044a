/** The real thread, and what tests wait for: a report of its loop, never a time. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { Worker } from 'node:worker_threads';
import { EngineClient } from '../../src/engine/client.js';
import type { ScoreRequest } from '../../src/engine/engine.js';
import { spawnWorker } from '../../src/engine/keeper.js';
import type { EngineTelemetry } from '../../src/engine/protocol.js';
import { ServerError } from '../../src/errors.js';
import type { ModelDescription } from '../../src/models/description.js';
import { MODEL_BUDGET } from '../families/scoring.js';
import { goldenTexts, SHIPPED } from '../shipped-package.js';

export const NEVER = new AbortController().signal;
export const LIMITED = { timeout: 60_000 };

export const SETUP = {
  backend: 'ort-capi',
  threads: 1,
  spin: false,
  limits: { rowsMax: 512, lanesMax: 16, slotsMax: 2048, finishRowsMax: 256 },
  cacheRowsMax: 8192,
  span: { lanesMax: 4, blockTokens: 128, sessionsMax: 2, idleMsMax: 1000 },
  queueWaitMsMax: 10_000,
} as const;

export class Harness {
  readonly client: EngineClient;
  readonly workers: Worker[] = [];
  readonly reports: EngineTelemetry[] = [];
  private readonly waiting = new Set<() => void>();

  constructor(models: readonly ModelDescription[]) {
    this.client = new EngineClient({
      setup: { ...SETUP, models },
      queueLanesMax: 100,
      queueTokensMax: 100_000,
      spawn: (setup) => {
        const worker = spawnWorker(setup);
        this.workers.push(worker);
        return worker;
      },
    });
    this.client.onTelemetry((telemetry) => {
      this.reports.push(telemetry);
      for (const look of this.waiting) look();
    });
  }

  /** Resolves with the next report that satisfies `is`, of those sent from now on. */
  report(is: (telemetry: EngineTelemetry) => boolean): Promise<EngineTelemetry> {
    const from = this.reports.length;
    return new Promise((resolve) => {
      const look = () => {
        const found = this.reports.slice(from).find(is);
        if (found === undefined) return;
        this.waiting.delete(look);
        resolve(found);
      };
      this.waiting.add(look);
    });
  }

  /** Resolves when the worker started last is ready. */
  async readyAgain(): Promise<void> {
    while (this.client.info().state !== 'ready') await new Promise((resolve) => setImmediate(resolve));
  }
}

export async function started(t: TestContext, models: readonly ModelDescription[]): Promise<Harness> {
  const harness = new Harness(models);
  t.after(() => harness.client.drain(0));
  await harness.client.started();
  return harness;
}

export const golden = goldenTexts();
export const SHORT = Int32Array.from(golden[2]?.ids ?? []);

export function request(windows: readonly Int32Array[], changes: Partial<ScoreRequest> = {}): ScoreRequest {
  return {
    model: SHIPPED,
    windows: windows.map((ids) => ({ ids, scoreFrom: 0 })),
    budget: MODEL_BUDGET,
    topLogprobs: 0,
    deadlineAtMs: null,
    ...changes,
  };
}
export function rejectsWith(work: Promise<unknown>, code: string, message = /./): Promise<void> {
  return assert.rejects(work, (error) => {
    assert.ok(error instanceof ServerError);
    assert.equal(error.code, code);
    assert.match(error.message, message);
    return true;
  });
}

export const isEmpty = ({ lanesWaiting, lanesRunning, slotsUsed }: EngineTelemetry) =>
  lanesWaiting + lanesRunning + slotsUsed === 0;
