/**
 * Decides which decoder rows run next: one new position a hypothesis, at any depth, of any sentence. Pure, like `scheduler.ts`.
 *
 *   waiting ──admit──> position: step 1 ... N ──all hypotheses of the sentence halted──> finish: k best tokens
 *                        ^                                                                    │ beam search
 *                        └──────────── next position of each live hypothesis <────────────────┘ or done
 *
 * A hypothesis that halts before its siblings costs nothing while it waits for them. When a position's token is chosen its key and
 * value are renewed once more, at depth N+1, in the same step as its child's first: no child needs that row before its own
 * step 2.
 */
import type { Budget } from '../engine/protocol.js';
import { chooseCandidates, type FinishReason, normalisedScore, repeatsItself } from './beam.js';
import { HaltingCounts } from './halting-counts.js';
import { CachePool, PrefixNode } from './prefix-cache.js';
import type { AdvanceResult } from './scheduler.js';
import { SlotPool } from './slot-pool.js';

export interface DecodeRequest {
  readonly jobId: number;
  readonly index: number;
  /** Rows of the memory pools that hold the encoded sentence. */
  readonly memoryRows: Int32Array;
  readonly budget: Budget;
  readonly beam: number;
  readonly lengthPenalty: number;
  readonly maxNewTokens: number;
}

export interface DecodeLimits {
  /** Hypotheses in work at once. */
  readonly rowsMax: number;
  /** Rows of the key and value pools. */
  readonly cacheRowsMax: number;
}

export interface Hypothesis {
  readonly sentence: Sentence;
  readonly node: PrefixNode;
  /** Pool row of the state of the position in work. */
  readonly slot: number;
  /** Slot that the position before it had; -1 at the first. It may have been given back, so look there before what begins later. */
  readonly parentSlot: number;
  /** The token at that position; its successor is what the position decides. */
  readonly inputId: number;
  /** Steps done at this position. */
  steps: number;
  halted: boolean;
  readonly ids: number[];
  readonly logprobs: number[];
  readonly depths: number[];
  readonly total: number;
}

export interface Decoded {
  /** Without the end of sentence. */
  readonly ids: readonly number[];
  /** Of `ids`, and of the end of sentence where there is one. */
  readonly logprobs: readonly number[];
  readonly depths: readonly number[];
  readonly score: number;
  readonly finishReason: FinishReason;
}

export class Sentence {
  hypotheses: Hypothesis[] = [];
  readonly ended: Decoded[] = [];
  promisedRows = 0;
  positionSteps = 0;
  positions = 0;

  constructor(readonly request: DecodeRequest) {}
}

/** A position whose key and value are computed once more, at depth `step`, from the state in `slot`. */
export interface Renewal {
  readonly sentence: Sentence;
  readonly node: PrefixNode;
  readonly slot: number;
  readonly step: number;
}

export interface DecodeAdvancePlan {
  readonly kind: 'advance';
  /** Hypotheses whose states are to be written before the step; they are in `active` too. */
  readonly begin: readonly Hypothesis[];
  /** Sentence after sentence. */
  readonly active: readonly Hypothesis[];
  readonly renewed: readonly Renewal[];
}

export interface DecodeFinishPlan {
  readonly kind: 'finish';
  /** All of whose hypotheses have halted. */
  readonly sentences: readonly Sentence[];
}

export type DecodePlan = DecodeAdvancePlan | DecodeFinishPlan;

/** [hypotheses, k] of one sentence, best first. */
export interface BestTokens {
  readonly ids: Int32Array;
  readonly logprobs: Float32Array;
  readonly k: number;
}

export interface NewToken {
  readonly request: DecodeRequest;
  readonly id: number;
  readonly logprob: number;
  readonly depth: number;
}

export interface DecodeProgress {
  /** Sentences that are done; they have left. */
  readonly done: readonly { readonly sentence: Sentence; readonly best: readonly Decoded[] }[];
  /** What greedy sentences said, for streams. */
  readonly tokens: readonly NewToken[];
}

export class DecodeScheduler {
  private readonly waiting: Sentence[] = [];
  private running: Sentence[] = [];
  private renewals: Renewal[] = [];
  private begun: Hypothesis[] = [];
  private readonly slots: SlotPool;
  readonly cache: CachePool;
  private readonly halting: HaltingCounts;

  constructor(
    readonly limits: DecodeLimits,
    maxSteps: number,
    private readonly bosId: number,
    private readonly eosId: number,
  ) {
    // A position keeps its state until it is renewed, while its child already runs.
    this.slots = new SlotPool(2 * limits.rowsMax);
    this.cache = new CachePool(limits.cacheRowsMax);
    this.halting = new HaltingCounts(maxSteps);
  }

  get lanesWaiting(): number {
    return this.waiting.length;
  }
  get lanesRunning(): number {
    return this.running.length;
  }
  get idle(): boolean {
    return this.waiting.length === 0 && this.running.length === 0;
  }
  /** State rows the family must provide. */
  get slotCount(): number {
    return this.slots.capacity;
  }

  /** Rows of cache a sentence can need at most: every position of every hypothesis at full depth. */
  rowsNeeded(request: Pick<DecodeRequest, 'beam' | 'maxNewTokens' | 'budget'>): number {
    return request.beam * request.maxNewTokens * request.budget.maxSteps;
  }

  submit(request: DecodeRequest): void {
    if (this.rowsNeeded(request) > this.limits.cacheRowsMax || request.beam > this.limits.rowsMax) {
      throw new Error('a sentence exceeds the cache or the rows of a step');
    }
    this.waiting.push(new Sentence(request));
  }

  /** Removes a job's sentences; their rows and slots are free before the next step. Returns the memory rows they held. */
  abort(jobId: number): Int32Array[] {
    const memory: Int32Array[] = [];
    const leaves = (sentence: Sentence) => sentence.request.jobId === jobId;
    for (const sentence of [...this.waiting, ...this.running])
      if (leaves(sentence)) memory.push(sentence.request.memoryRows);
    for (const sentence of this.running) if (leaves(sentence)) this.leave(sentence);
    this.waiting.splice(0, this.waiting.length, ...this.waiting.filter((sentence) => !leaves(sentence)));
    this.running = this.running.filter((sentence) => !leaves(sentence));
    return memory;
  }

  private leave(sentence: Sentence): void {
    for (const { node, slot } of sentence.hypotheses) {
      this.slots.giveOne(slot);
      node.release(this.cache);
    }
    sentence.hypotheses = [];
    this.begun = this.begun.filter((hypothesis) => hypothesis.sentence !== sentence);
    this.renewals = this.renewals.filter((renewal) => {
      if (renewal.sentence !== sentence) return true;
      this.dropRenewal(renewal);
      return false;
    });
    this.cache.promise(-sentence.promisedRows);
    sentence.promisedRows = 0;
  }

  private dropRenewal({ node, slot }: Renewal): void {
    this.slots.giveOne(slot);
    node.release(this.cache);
  }

  schedule(): DecodePlan | null {
    const ready = this.running.filter(allHalted);
    if (ready.length > 0) return { kind: 'finish', sentences: ready };
    this.admit();
    if (this.running.length === 0) return null;
    const active: Hypothesis[] = [];
    for (const sentence of this.running) {
      for (const hypothesis of sentence.hypotheses) {
        if (hypothesis.halted) continue;
        this.takeRow(sentence, hypothesis.node);
        active.push(hypothesis);
      }
    }
    const plan: DecodeAdvancePlan = { kind: 'advance', begin: this.begun, active, renewed: this.renewals };
    this.begun = [];
    return plan;
  }

  private takeRow(sentence: Sentence, node: PrefixNode): void {
    node.rows.push(this.cache.take());
    sentence.promisedRows -= 1;
  }

  private admit(): void {
    let rows = this.running.reduce((sum, sentence) => sum + sentence.request.beam, 0);
    for (let sentence = this.waiting[0]; sentence !== undefined; sentence = this.waiting[0]) {
      const { request } = sentence;
      const needed = this.rowsNeeded(request);
      if (rows + request.beam > this.limits.rowsMax || needed > this.cache.unpromised) return;
      this.cache.promise(needed);
      sentence.promisedRows = needed;
      rows += request.beam;
      this.waiting.shift();
      this.running.push(sentence);
      const root = { ids: [], logprobs: [], depths: [], total: 0 };
      this.addHypothesis(sentence, new PrefixNode(null, 0), -1, this.bosId, root);
    }
  }

  private addHypothesis(
    sentence: Sentence,
    node: PrefixNode,
    parentSlot: number,
    inputId: number,
    said: Pick<Hypothesis, 'ids' | 'logprobs' | 'depths' | 'total'>,
  ): void {
    const slot = this.slots.takeOne();
    const hypothesis: Hypothesis = { sentence, node, slot, parentSlot, inputId, steps: 0, halted: false, ...said };
    sentence.hypotheses.push(hypothesis);
    sentence.positions += 1;
    this.begun.push(hypothesis);
  }

  /** A flag and a remainder per active row, in the plan's order. */
  applyAdvance(plan: DecodeAdvancePlan, { halted, remainders }: AdvanceResult): void {
    for (let row = 0; row < plan.active.length; row++) {
      const hypothesis = plan.active[row] as Hypothesis;
      hypothesis.steps += 1;
      hypothesis.sentence.positionSteps += 1;
      if (halted[row] === 0) continue;
      hypothesis.halted = true;
      hypothesis.node.depth = hypothesis.steps;
      this.halting.add(hypothesis.steps, remainders[row] as number);
    }
    for (const renewal of plan.renewed) this.dropRenewal(renewal);
    this.renewals = [];
  }

  /** The best tokens of each sentence of the plan, in its order: beam search chooses, and what is done leaves. */
  applyFinish(plan: DecodeFinishPlan, best: readonly BestTokens[]): DecodeProgress {
    const done: { sentence: Sentence; best: readonly Decoded[] }[] = [];
    const tokens: NewToken[] = [];
    plan.sentences.forEach((sentence, i) => {
      const result =
        sentence.request.beam === 1
          ? this.advanceGreedy(sentence, best[i] as BestTokens, tokens)
          : this.advanceSentence(sentence, best[i] as BestTokens);
      if (result !== null) done.push({ sentence, best: result });
    });
    // What has left has no hypotheses; what runs always has.
    if (done.length > 0) this.running = this.running.filter(({ hypotheses }) => hypotheses.length > 0);
    return { done, tokens };
  }

  /**
   * A beam of 1, what most sentences ask for: the best token is the choice, and what was said so far goes on to the only child as it stands. Null
   * while the sentence runs.
   */
  private advanceGreedy(sentence: Sentence, best: BestTokens, tokens: NewToken[]): Decoded[] | null {
    const { lengthPenalty, maxNewTokens } = sentence.request;
    const parent = sentence.hypotheses[0] as Hypothesis;
    const id = best.ids[0] as number;
    const logprob = best.logprobs[0] as number;
    const { depth } = parent.node;
    const { ids, logprobs, depths } = parent;
    const total = parent.total + logprob;
    logprobs.push(logprob);
    depths.push(depth);
    let finishReason: FinishReason | null = 'stop';
    if (id !== this.eosId) {
      ids.push(id);
      tokens.push({ request: sentence.request, id, logprob, depth });
      finishReason = ids.length >= maxNewTokens ? 'length' : repeatsItself(ids) ? 'repetition' : null;
    }
    const living = finishReason === null ? [{ from: 0, said: { ids, logprobs, depths, total } }] : [];
    this.replaceHypotheses(sentence, sentence.hypotheses, living);
    if (finishReason === null) return null;
    this.leave(sentence);
    const score = normalisedScore(total, logprobs.length, lengthPenalty);
    sentence.ended.push({ ids, logprobs, depths, score, finishReason });
    return [...sentence.ended];
  }

  /** The n best when the sentence is done, else null. */
  private advanceSentence(sentence: Sentence, { ids, logprobs, k }: BestTokens): Decoded[] | null {
    const { beam, lengthPenalty, maxNewTokens } = sentence.request;
    const parents = sentence.hypotheses;
    const totals = parents.map(({ total }) => total);
    const choice = chooseCandidates(totals, ids, logprobs, k, beam, this.eosId);
    const say = (from: number, id: number | null, logprob: number, total: number) => {
      const parent = parents[from] as Hypothesis;
      return {
        ids: id === null ? parent.ids : [...parent.ids, id],
        logprobs: [...parent.logprobs, logprob],
        depths: [...parent.depths, parent.node.depth],
        total,
      };
    };
    const end = (said: ReturnType<typeof say>, finishReason: FinishReason) => {
      const { total, ...rest } = said;
      sentence.ended.push({
        ...rest,
        score: normalisedScore(total, said.logprobs.length, lengthPenalty),
        finishReason,
      });
    };
    for (const { from, logprob, total } of choice.ended) end(say(from, null, logprob, total), 'stop');
    const living: { from: number; said: ReturnType<typeof say> }[] = [];
    if (sentence.ended.length < beam) {
      for (const { from, id, logprob, total } of choice.live) {
        const said = say(from, id, logprob, total);
        if (said.ids.length >= maxNewTokens) end(said, 'length');
        else if (repeatsItself(said.ids)) end(said, 'repetition');
        else living.push({ from, said });
      }
    }
    this.replaceHypotheses(sentence, parents, sentence.ended.length < beam ? living : []);
    if (sentence.hypotheses.length > 0) return null;
    this.leave(sentence);
    // A stable sort: of equal scores the one that ended first.
    return [...sentence.ended].sort((a, b) => b.score - a.score).slice(0, beam);
  }

  private replaceHypotheses(
    sentence: Sentence,
    parents: readonly Hypothesis[],
    living: readonly { from: number; said: Pick<Hypothesis, 'ids' | 'logprobs' | 'depths' | 'total'> }[],
  ): void {
    const { budget, maxNewTokens } = sentence.request;
    sentence.hypotheses = [];
    for (const { from, said } of living) {
      const { node, slot } = parents[from] as Hypothesis;
      this.addHypothesis(sentence, new PrefixNode(node, node.position + 1), slot, said.ids.at(-1) as number, said);
    }
    for (let i = 0; i < parents.length; i++) {
      const { node, slot } = parents[i] as Hypothesis;
      if (node.depth < budget.maxSteps && living.some(({ from }) => from === i)) {
        this.takeRow(sentence, node);
        this.renewals.push({ sentence, node, slot, step: node.depth + 1 });
        continue; // the renewal holds the node and its slot from here
      }
      this.slots.giveOne(slot);
      node.release(this.cache);
    }
    // What the finished position did not need is free for others; what is left is the rest of the sentence at full depth.
    const written = (living[0]?.said.ids.length ?? maxNewTokens) as number;
    const stillNeeded =
      sentence.hypotheses.length === 0 ? 0 : sentence.request.beam * (maxNewTokens - written) * budget.maxSteps;
    this.cache.promise(stillNeeded - sentence.promisedRows);
    sentence.promisedRows = stillNeeded;
  }

  takeHalting(): HaltingCounts {
    return this.halting.take();
  }
}

function allHalted({ hypotheses }: Sentence): boolean {
  for (const { halted } of hypotheses) if (!halted) return false;
  return true;
}
