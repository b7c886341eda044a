/** What the loop tells of a GPU: its memory, asked for once a second at most, and the time of the stages that run there and no others. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DEVICE_MEMORY_INTERVAL_MS, EngineLoop } from '../../src/engine/loop.js';
import type {
  DeviceTelemetry,
  FromEngine,
  ScoreJob,
  ScoreWindowResult,
  StageTelemetry,
  ToEngine,
} from '../../src/engine/protocol.js';
import { ResidentScoreStage } from '../../src/engine/resident-score-stage.js';
import { ScoreStage } from '../../src/engine/score-stage.js';
import type { Launch, Launching } from '../../src/families/launching.js';
import { RuntimeFailure } from '../../src/runtime/backend.js';
import type { ResidentPlan, StepProgress } from '../../src/scheduler/resident-scheduler.js';
import { FakeFamily } from '../fake-family.js';
import { SimulatedRows } from '../simulated-rows.js';

const SIZES = { rowsMax: 32, lanesMax: 4, slotsMax: 64, finishRowsMax: 16 };
const RESIDENT = { ...SIZES, flatRows: 32, stepsMax: 1 };
const LAUNCH_MS = 30;

/** Takes 30 ms a launch, and scores nothing. */
class SlowFamily implements Launching<ScoreWindowResult> {
  readonly rows = new SimulatedRows(RESIDENT);
  private progress: StepProgress[] = [];
  launches = 0;

  enqueue(plan: ResidentPlan): void {
    this.launches += 1;
    this.progress = this.rows.run(plan);
  }
  fetch(plan: ResidentPlan): Launch<ScoreWindowResult> {
    const [floats, bytes, ids] = [new Float32Array(0), new Uint8Array(0), new Int32Array(0)];
    const result = { logprobs: floats, depths: bytes, remainders: floats, topIds: ids, topLogprobs: floats };
    const finished = plan.finish.map(({ positionSteps }) => ({ ...result, positionSteps }));
    return { finished, progress: this.progress, deviceMs: LAUNCH_MS };
  }
  drop(): void {}
  passed(): boolean {
    return true;
  }

  takePadded(): number {
    return 0;
  }
}

function job(id: number, model: string): ToEngine {
  const windows = [{ ids: new Int32Array(10).fill(id), scoreFrom: 0 }];
  const budget = { maxSteps: 8, minSteps: 1, threshold: 0.99 };
  const times = { submittedAtMs: 0, deadlineAtMs: null };
  const made: ScoreJob = { kind: 'score', id, model, windows, budget, topLogprobs: 0, ...times };
  return { type: 'submit', job: made };
}

/** Each message comes when the loop has nothing to do. */
async function run(messages: readonly ToEngine[], family: Launching<ScoreWindowResult>, memory: () => number) {
  const posted: FromEngine[] = [];
  const later = [...messages, { type: 'drain' } as const];
  const inbox: ToEngine[] = [];
  let nowMs = 0;
  const resident = new ResidentScoreStage({ id: 'gpu', maxSteps: 8, families: [family] }, RESIDENT);
  const host = new ScoreStage({ id: 'cpu', maxSteps: 8, family: new FakeFamily(SIZES, () => (nowMs += 7)) }, SIZES);
  const loop = new EngineLoop({
    stages: [host, resident],
    device: {
      name: 'cuda:1',
      memory: () => ({ usedBytes: memory(), totalBytes: 1000 }),
      runs: (stage) => stage === resident,
    },
    queueWaitMsMax: 1e6,
    now: () => (nowMs += 10),
    receive: () => inbox.shift() ?? null,
    wait: async () => void inbox.push(later.shift() as ToEngine),
    post: (message) => posted.push(message),
  });
  await loop.run();
  return posted.flatMap((message) => (message.type === 'telemetry' ? [message.telemetry] : []));
}

test('memory is known before anything runs, is asked for once a second, and only the time of the GPU counts', async () => {
  const family = new SlowFamily();
  let asked = 0;
  const messages = Array.from({ length: 40 }, (_, id) => job(id, id % 2 === 0 ? 'gpu' : 'cpu'));
  const reports = await run(messages, family, () => ++asked);
  const devices = reports.map(({ device }) => device as DeviceTelemetry);
  assert.deepEqual(devices[0], { name: 'cuda:1', usedBytes: 1, totalBytes: 1000, busySeconds: 0 });
  const busy = devices.reduce((sum, { busySeconds }) => sum + busySeconds, 0);
  assert.ok(Math.abs(busy - (family.launches * LAUNCH_MS) / 1000) < 1e-9, `${busy} s in ${family.launches} launches`);
  const timeOf = (id: string) =>
    reports
      .flatMap(({ stages }): readonly StageTelemetry[] => stages)
      .reduce((sum, { model, computeSeconds }) => (model === id ? sum + computeSeconds : sum), 0);
  assert.ok(timeOf('cpu') > 0, 'the stage on the CPU worked too');
  assert.ok(asked > 1 && asked < reports.length / 3, `asked ${asked} times in ${reports.length} reports`);
  assert.equal(DEVICE_MEMORY_INTERVAL_MS, 1000);
});

test('launches beside each other say together more than has passed: the device was busy no longer than that', async () => {
  const family = new SlowFamily();
  const fetch = family.fetch.bind(family);
  family.fetch = (plan) => ({ ...fetch(plan), deviceMs: 1e6 });
  const reports = await run(
    Array.from({ length: 8 }, (_, id) => job(id, 'gpu')),
    family,
    () => 1,
  );
  const busy = reports.reduce((sum, { device }) => sum + (device?.busySeconds ?? 0), 0);
  // The clock of the test goes on by some 10 ms a look.
  assert.ok(busy > 0.1 && busy < 10, `${busy} s`);
});

test('a device that is lost in the middle of a launch ends the loop with its reason: nothing more is posted', async () => {
  const family = new SlowFamily();
  const fetch = family.fetch.bind(family);
  family.fetch = (plan) => {
    if (family.launches === 3)
      throw new RuntimeFailure('cudaEventSynchronize', 'unspecified launch failure (CUDA error 719)');
    return fetch(plan);
  };
  await assert.rejects(
    run([job(1, 'gpu')], family, () => 1),
    /unspecified launch failure \(CUDA error 719\)/,
  );
  assert.equal(family.launches, 3);
});
