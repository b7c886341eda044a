/**
 * The loop with a scoring and a translating stage, without weights, threads or time: a seed decides jobs, limits, moments of submission,
 * abort, deadline and drain, and how long each turn takes. What must hold at every moment is checked as it happens; when all is over
 * one sentence that needs every row of every pool must still go through.
 */
import assert from 'node:assert/strict';
import { EngineLoop } from '../../src/engine/loop.js';
import type {
  Budget,
  EngineTelemetry,
  FromEngine,
  Job,
  ScoreJob,
  ToEngine,
  TranslateJob,
} from '../../src/engine/protocol.js';
import { ScoreStage } from '../../src/engine/score-stage.js';
import type { Stage } from '../../src/engine/stage.js';
import { type TranslateLimits, TranslateStage } from '../../src/engine/translate-stage.js';
import type { SchedulerLimits } from '../../src/scheduler/scheduler.js';
import { FakeFamily } from '../fake-family.js';
import { assertTranslated, FakeTranslation, type TranslationPlan } from '../fake-translation.js';
import { replay } from '../halting-oracle.js';
import type { Random } from '../seed.js';
import { BOS, EOS } from '../translation-oracle.js';

type StageKind = Extract<Job['kind'], 'score' | 'translate'>;
type SimulatedJob = ScoreJob | TranslateJob;
type Token = Extract<FromEngine, { type: 'token' }>;

const MAX_STEPS = 6;
const LENGTH_MAX = 12;
const NEW_TOKENS_MAX = 8;
const BEAM_MAX = 4;
/** Of this source alone the translation is one token. */
const BRIEF = 13;

export interface Scenario {
  readonly score: SchedulerLimits;
  readonly translate: TranslateLimits;
  readonly scoreFirst: boolean;
  readonly queueWaitMsMax: number;
  readonly turnMsMax: number;
  /** In the order of their times; the drain is among them. */
  readonly script: readonly { readonly atMs: number; readonly message: ToEngine }[];
}

function randomLimits(random: Random): SchedulerLimits {
  return {
    rowsMax: random.int(LENGTH_MAX, 40),
    lanesMax: random.int(1, 6),
    slotsMax: random.int(LENGTH_MAX, 60),
    finishRowsMax: random.int(1, 30),
  };
}

export function randomScenario(random: Random): Scenario {
  const encoder = randomLimits(random);
  const cacheRows = BEAM_MAX * NEW_TOKENS_MAX * MAX_STEPS;
  const translate = {
    encoder,
    memoryRowsMax: random.int(LENGTH_MAX, Math.min(encoder.rowsMax, encoder.slotsMax)),
    decoder: {
      rowsMax: random.int(BEAM_MAX, 16),
      cacheRowsMax: random.chance(0.5) ? cacheRows : random.int(cacheRows, 4 * cacheRows),
    },
  };
  const script: Scenario['script'][number][] = [];
  let atMs = 0;
  for (let id = 1, last = random.int(1, 14); id <= last; id++) {
    // Some come together, some when all others have long been answered.
    atMs += random.pick([0, random.int(0, 20), random.int(0, 800)]);
    const job = random.chance(0.4) ? scoreJob(random, id, atMs) : translateJob(random, id, atMs);
    script.push({ atMs, message: { type: 'submit', job } });
    if (!random.chance(0.2)) continue;
    script.push({ atMs: atMs + (random.chance(0.2) ? 0 : random.int(0, 200)), message: { type: 'abort', jobId: id } });
  }
  script.push({ atMs: atMs + (random.chance(0.3) ? 0 : random.int(0, 300)), message: { type: 'drain' } });
  return {
    score: randomLimits(random),
    translate,
    scoreFirst: random.chance(0.5),
    queueWaitMsMax: random.pick([20, 200, 10_000]),
    turnMsMax: random.pick([1, 10, 30]),
    script: script.toSorted((a, b) => a.atMs - b.atMs),
  };
}

function randomBudget(random: Random): Budget {
  const maxSteps = random.chance(0.5) ? MAX_STEPS : random.int(1, MAX_STEPS);
  const threshold = random.chance(0.7) ? 0.99 : 0.01 + 0.99 * random.next();
  return { maxSteps, minSteps: random.chance(0.7) ? 1 : random.int(1, maxSteps), threshold };
}

const randomIds = (random: Random) => Int32Array.from({ length: random.int(1, LENGTH_MAX) }, () => random.int(0, 99));

function times(random: Random, submittedAtMs: number) {
  return { submittedAtMs, deadlineAtMs: random.chance(0.75) ? null : submittedAtMs + random.int(0, 400) };
}

function scoreJob(random: Random, id: number, atMs: number): ScoreJob {
  const windows = Array.from({ length: random.int(1, 4) }, () => ({ ids: randomIds(random), scoreFrom: 0 }));
  const budget = randomBudget(random);
  return { kind: 'score', id, model: 'lm', windows, budget, topLogprobs: 0, ...times(random, atMs) };
}

function translateJob(random: Random, id: number, atMs: number): TranslateJob {
  const sentences = Array.from({ length: random.chance(0.5) ? 1 : random.int(1, 5) }, () => randomIds(random));
  return {
    kind: 'translate',
    id,
    model: random.chance(0.02) ? 'unknown' : 'mt',
    sentences,
    encoderBudget: randomBudget(random),
    decoderBudget: randomBudget(random),
    beam: random.chance(0.5) ? 1 : random.int(1, BEAM_MAX),
    lengthPenalty: random.pick([0, 1]),
    maxNewTokens: sentences.map(() => random.int(1, NEW_TOKENS_MAX)),
    streamTokens: random.chance(0.5),
    ...times(random, atMs),
  };
}

interface Submitted {
  readonly job: SimulatedJob;
  readonly receivedAtMs: number;
  readonly parts: Set<number>;
  readonly tokens: Map<number, Token[]>;
  startedAtMs: number | null;
  end: 'done' | 'failed' | 'aborted' | null;
}

export type Endings = Record<'done' | 'failed' | 'aborted', number>;

export class TranslationSimulation {
  private nowMs = 0;
  /** Of all jobs so far, from the first step to the end. */
  private longestComputeMs = 0;
  private turnStartedAtMs = 0;
  private next = 0;
  private drained = false;
  private readonly jobs = new Map<number, Submitted>();
  /** Since when a stage that has work was passed over. */
  private readonly waitsSinceMs = new Map<StageKind, number>();
  private last: EngineTelemetry | null = null;

  constructor(
    private readonly scenario: Scenario,
    private readonly random: Random,
  ) {}

  async run(): Promise<Endings> {
    const { script, score, translate, scoreFirst, queueWaitMsMax } = this.scenario;
    const scoring = new ScoreStage(
      { id: 'lm', maxSteps: MAX_STEPS, family: new FakeFamily(score, () => this.takeTurn('score')) },
      score,
    );
    const family = new FakeTranslation(translate, (_, plan) => {
      this.takeTurn('translate');
      this.watch(plan);
    });
    const translating = new TranslateStage(
      { id: 'mt', maxSteps: MAX_STEPS, bosId: BOS, eosId: EOS, contextTokens: 128, family },
      translate,
    );
    const stages = scoreFirst ? [scoring, translating] : [translating, scoring];
    const loop = new EngineLoop({
      stages,
      queueWaitMsMax,
      now: () => this.nowMs,
      receive: () => this.receive(),
      wait: async () => {
        const upcoming = script[this.next];
        assert.ok(upcoming !== undefined, 'the loop waits, but no message will come');
        this.nowMs = Math.max(this.nowMs, upcoming.atMs);
      },
      post: (message, transfer) => this.posted(message, transfer),
    });
    await loop.run();
    await this.probe(stages);
    return this.conclude();
  }

  /** Time passes in turns only. A stage with work is passed over for one turn of its own and one of the other at most. */
  private takeTurn(served: StageKind): void {
    const waitMsMax = 2 * this.scenario.turnMsMax;
    for (const stage of ['score', 'translate'] as const) {
      const hasWork = [...this.jobs.values()].some(
        ({ job, end }) => end === null && job.kind === stage && job.model !== 'unknown',
      );
      const since = this.waitsSinceMs.get(stage);
      if (!hasWork || stage === served) this.waitsSinceMs.delete(stage);
      else if (since === undefined) this.waitsSinceMs.set(stage, this.nowMs);
      else assert.ok(this.nowMs - since <= waitMsMax, `${stage} has waited for ${this.nowMs - since} ms`);
    }
    this.turnStartedAtMs = this.nowMs;
    this.nowMs += this.random.next() * this.scenario.turnMsMax;
  }

  /** Called with every plan of the translating stage before it runs. */
  private watch(plan: TranslationPlan): void {
    const requests =
      'lanes' in plan
        ? plan.lanes.map((lane) => ('lane' in lane ? lane.lane.request : lane.request))
        : 'active' in plan
          ? [...plan.active, ...plan.renewed].map(({ sentence }) => sentence.request)
          : plan.sentences.map(({ request }) => request);
    for (const { jobId } of requests) {
      const { job, end } = this.job(jobId);
      assert.equal(end, null, `job ${jobId} has left, but its rows still run`);
      const isLate = job.deadlineAtMs !== null && job.deadlineAtMs <= this.turnStartedAtMs;
      assert.ok(!isLate, `job ${jobId} runs after its deadline`);
    }
    if (!('lanes' in plan) || plan.kind === 'finish') return;
    for (const { request } of plan.begin) this.job(request.jobId).startedAtMs ??= this.turnStartedAtMs;
  }

  private receive(): ToEngine | null {
    const upcoming = this.scenario.script[this.next];
    if (upcoming === undefined || upcoming.atMs > this.nowMs) return null;
    this.next += 1;
    const { message } = upcoming;
    if (message.type === 'submit') {
      const job = message.job as SimulatedJob;
      const fresh = { parts: new Set<number>(), tokens: new Map<number, Token[]>(), startedAtMs: null, end: null };
      this.jobs.set(job.id, { job, receivedAtMs: this.nowMs, ...fresh });
    }
    if (message.type === 'abort') this.job(message.jobId).end ??= 'aborted';
    return message;
  }

  private posted(message: FromEngine, transfer: readonly ArrayBuffer[]): void {
    assert.ok(!this.drained, 'drained is the last word');
    switch (message.type) {
      case 'window':
      case 'sentence':
        this.part(message, transfer);
        break;
      case 'token': {
        const { job, parts, tokens } = this.open(message.jobId);
        assert.ok(job.kind === 'translate' && job.streamTokens && job.beam === 1, 'who did not ask hears no tokens');
        assert.ok(!parts.has(message.index), 'tokens come before their sentence');
        tokens.set(message.index, [...(tokens.get(message.index) ?? []), message]);
        break;
      }
      case 'done': {
        const submitted = this.open(message.jobId);
        const { job, parts, startedAtMs } = submitted;
        const count = job.kind === 'score' ? job.windows.length : job.sentences.length;
        assert.equal(parts.size, count, 'done comes after the last part');
        if (job.kind === 'translate')
          assert.equal(message.startedAtMs, startedAtMs, 'started: its first lane was admitted');
        assert.equal(message.finishedAtMs, this.nowMs);
        this.longestComputeMs = Math.max(this.longestComputeMs, message.finishedAtMs - message.startedAtMs);
        assert.ok(job.deadlineAtMs === null || job.deadlineAtMs > this.turnStartedAtMs, 'done in time');
        submitted.end = 'done';
        break;
      }
      case 'failed': {
        const submitted = this.open(message.jobId);
        this.checkFailure(submitted, message.code);
        submitted.end = 'failed';
        break;
      }
      case 'telemetry':
        this.checkReport(message.telemetry);
        break;
      case 'drained':
        this.drained = true;
        break;
      default:
        assert.fail(`the loop posted ${message.type}`);
    }
  }

  private part(message: Extract<FromEngine, { type: 'window' | 'sentence' }>, transfer: readonly ArrayBuffer[]): void {
    const { jobId, index } = message;
    const { job, parts, tokens } = this.open(jobId);
    assert.ok(!parts.has(index), 'a part is answered once');
    parts.add(index);
    if (message.type === 'window') {
      assert.ok(job.kind === 'score');
      const { depths, remainders, positionSteps } = message.result;
      assert.deepEqual(
        { depths, remainders, positionSteps },
        replay(job.windows[index]?.ids ?? new Int32Array(0), job.budget),
      );
      return;
    }
    assert.ok(job.kind === 'translate');
    const { result } = message;
    assertTranslated(job, index, result);
    const arrays = result.hypotheses.flatMap(({ ids, logprobs, depths }) => [
      ids.buffer,
      logprobs.buffer,
      depths.buffer,
    ]);
    assert.deepEqual(new Set(transfer), new Set([result.encoderDepths.buffer, ...arrays]), 'results are moved');
    const { startedAtMs } = this.job(jobId);
    assert.ok(result.firstTokenAtMs > (startedAtMs as number) && result.firstTokenAtMs <= this.nowMs, 'first token');
    if (job.beam > 1 || !job.streamTokens) return;
    const best = result.hypotheses[0];
    assert.deepEqual(
      (tokens.get(index) ?? []).map(({ id, logprob, depth }) => [id, logprob, depth]),
      Array.from(best?.ids ?? [], (id, i) => [id, best?.logprobs[i], best?.depths[i]]),
      'all its tokens came, in order',
    );
  }

  /** Failures happen for a reason, and soon after it: time limits are looked at before each turn. */
  private checkFailure({ job, receivedAtMs, startedAtMs }: Submitted, code: string): void {
    const passed = (limitAtMs: number) => {
      assert.ok(limitAtMs <= this.nowMs, 'not before its time');
      assert.ok(this.nowMs - Math.max(limitAtMs, receivedAtMs) <= this.scenario.turnMsMax, 'without delay');
    };
    switch (code) {
      case 'UNKNOWN_MODEL':
        assert.equal(job.model, 'unknown');
        break;
      case 'DEADLINE_EXCEEDED': {
        const leftMs = (job.deadlineAtMs ?? Number.POSITIVE_INFINITY) - this.nowMs;
        // One that was not begun is given up when it would be cut off midway, as jobs have gone so far.
        if (startedAtMs !== null || leftMs <= 0) passed(this.nowMs + leftMs);
        else assert.ok(leftMs <= this.longestComputeMs, 'it could have been begun in time');
        break;
      }
      case 'QUEUE_FULL':
        assert.equal(startedAtMs, null, 'a job that has started does not fail for waiting');
        passed(job.submittedAtMs + this.scenario.queueWaitMsMax);
        break;
      default:
        assert.fail(`job ${job.id} failed with ${code}`);
    }
  }

  private checkReport(telemetry: EngineTelemetry): void {
    const { slotsUsed, slotsTotal, cacheRowsUsed, cacheRowsTotal } = telemetry;
    assert.ok(slotsUsed >= 0 && slotsUsed <= slotsTotal);
    assert.ok(cacheRowsUsed >= 0 && cacheRowsUsed <= cacheRowsTotal);
    assert.equal(cacheRowsTotal, this.scenario.translate.decoder.cacheRowsMax);
    this.last = telemetry;
  }

  /** Translates a sentence as long as the whole memory beside one that needs the whole cache, on the stages as they were left. */
  private async probe(stages: readonly Stage[]): Promise<void> {
    const { memoryRowsMax, decoder } = this.scenario.translate;
    const jobs = [
      { length: memoryRowsMax, maxNewTokens: 2 },
      { length: 1, maxNewTokens: Math.floor(decoder.cacheRowsMax / MAX_STEPS) },
    ].map(({ length, maxNewTokens }, id): TranslateJob => {
      const budget = { maxSteps: MAX_STEPS, minSteps: 1, threshold: 0.99 };
      const sentences = [new Int32Array(length).fill(BRIEF)];
      const settings = { encoderBudget: budget, decoderBudget: budget, beam: 1, lengthPenalty: 1, streamTokens: false };
      const rest = { model: 'mt', submittedAtMs: this.nowMs, deadlineAtMs: null };
      return { kind: 'translate', id: 1000 + id, sentences, maxNewTokens: [maxNewTokens], ...settings, ...rest };
    });
    for (const job of jobs)
      this.jobs.set(job.id, {
        job,
        receivedAtMs: this.nowMs,
        parts: new Set(),
        tokens: new Map(),
        startedAtMs: null,
        end: null,
      });
    const inbox: ToEngine[] = [...jobs.map((job) => ({ type: 'submit', job }) as const), { type: 'drain' }];
    const ended: number[] = [];
    const loop = new EngineLoop({
      stages,
      queueWaitMsMax: 1e9,
      now: () => this.nowMs,
      receive: () => inbox.shift() ?? null,
      wait: async () => assert.fail('rows of the memory or the cache were not given back'),
      post: (message) => {
        if (message.type === 'done') ended.push(message.jobId);
        if (message.type === 'sentence')
          assertTranslated(jobs[message.jobId - 1000] as TranslateJob, 0, message.result);
        if (message.type === 'telemetry') this.last = message.telemetry;
      },
    });
    await loop.run();
    assert.equal(ended.length, jobs.length);
    for (const { id } of jobs) this.jobs.delete(id);
  }

  private conclude(): Endings {
    assert.ok(this.drained, 'a drain is answered');
    const endings: Endings = { done: 0, failed: 0, aborted: 0 };
    for (const { job, end } of this.jobs.values()) {
      assert.ok(end !== null, `job ${job.id} was never answered`);
      endings[end] += 1;
    }
    const { lanesWaiting, lanesRunning, slotsUsed, cacheRowsUsed } = this.last as EngineTelemetry;
    assert.deepEqual([lanesWaiting, lanesRunning, slotsUsed, cacheRowsUsed], [0, 0, 0, 0], 'nothing is left behind');
    return endings;
  }

  private job(id: number): Submitted {
    return this.jobs.get(id) ?? assert.fail(`no job ${id}`);
  }

  private open(id: number): Submitted {
    const submitted = this.job(id);
    assert.equal(submitted.end, null, `job ${id} was already ${submitted.end}`);
    return submitted;
  }
}
