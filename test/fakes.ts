/** An engine, a tokenizer and models without weights: deterministic, and slow only when a test holds a gate shut. */
import { monotonicMs } from '../src/clock.js';
import { parseConfig } from '../src/config.js';
import type {
  Engine,
  EngineInfo,
  EngineState,
  Foreseen,
  GenerateListener,
  GenerateOutcome,
  GenerateRequest,
  ScoreOutcome,
  ScoreRequest,
  SpanListener,
  SpanOutcome,
  SpanRequest,
  TranslateListener,
  TranslateOutcome,
  TranslateRequest,
} from '../src/engine/engine.js';
import type {
  Budget,
  EngineTelemetry,
  GeneratedTokens,
  ScoreWindow,
  ScoreWindowResult,
  SentenceResult,
  SequenceResult,
  TokenScores,
  TranslationHypothesis,
} from '../src/engine/protocol.js';
import { ServerError } from '../src/errors.js';
import { Admission } from '../src/http/admission.js';
import { buildApp } from '../src/http/app.js';
import type { App, AppDeps } from '../src/http/deps.js';
import { KeyRing } from '../src/http/key-ring.js';
import type { LanguageDetector } from '../src/http/language-detector.js';
import { ModelRepository } from '../src/http/model-repository.js';
import { createMetrics } from '../src/metrics/metrics.js';
import { Observer } from '../src/metrics/observe.js';
import type { ModelDescription } from '../src/models/description.js';
import { ByteTokenizer as PlainBytes } from '../src/tokenize/byte-tokenizer.js';
import type { Encoded, Tokenizer } from '../src/tokenize/types.js';
import { describeSpanModel, FakeSpans } from './fake-span.js';

export function describeModel(changes: Partial<ModelDescription> = {}): ModelDescription {
  return {
    id: 'fake',
    family: 'universal-transformer',
    task: 'score',
    language: 'en',
    precision: 'int8',
    vocabularySize: 257,
    contextTokens: 17,
    maxSteps: 8,
    threshold: 0.99,
    bosId: 0,
    eosId: 2,
    targetLanguage: null,
    parameters: 1000,
    graphs: {},
    folder: '/nowhere/fake',
    provenance: { licence: 'Apache-2.0', trained: { steps: 3 } },
    quality: { bitsPerByte: 1.5 },
    createdAtUnix: 1_700_000_000,
    ...changes,
  };
}

/** Its translation of a text is the text with its letters' case swapped; byte 2 ends a sentence. */
export function describeTranslator(changes: Partial<ModelDescription> = {}): ModelDescription {
  return describeModel({
    id: 'fake-mt',
    task: 'translate',
    targetLanguage: 'de',
    contextTokens: 128,
    maxSteps: 6,
    folder: '/nowhere/fake-mt',
    ...changes,
  });
}

/** Ids 0 ... 255 are bytes; 256 is the bytes of "é" and the first byte of the next "é", so that tokens straddle characters. */
export class ByteTokenizer implements Tokenizer {
  readonly vocabularySize = 257;

  async encode(text: string): Promise<Encoded> {
    const ids: number[] = [];
    const offsets: number[] = [];
    let offset = 0;
    for (const character of text) {
      for (const byte of Buffer.from(character)) {
        ids.push(byte);
        offsets.push(offset);
      }
      offset += character.length;
    }
    return { ids: Int32Array.from(ids), offsets: Int32Array.from([...offsets, offset]), bytes: ids.length };
  }

  decode(ids: ArrayLike<number>): string {
    return Buffer.concat(Array.from(ids, (id) => this.textBytes(id))).toString('utf8');
  }

  textBytes(id: number): Uint8Array {
    return Uint8Array.from(id === 256 ? [0xc3, 0xa9, 0xc3] : [id]);
  }

  tokenText(id: number): string {
    return this.decode([id]);
  }
}

export class FakeEngine implements Engine {
  state: EngineState = 'ready';
  reason: string | null = null;
  restarts = 0;
  /** Every scoring request that reached the engine, and every translation. */
  readonly requests: ScoreRequest[] = [];
  readonly translations: TranslateRequest[] = [];
  readonly generations: GenerateRequest[] = [];
  readonly streams: SpanRequest[] = [];
  /** Sentences, and blocks of texts, that pass the gate though it is shut, and though a failure is set. */
  sentencesFree = 0;
  /** Requests that are in the engine now. */
  active = 0;
  /** Of a GPU; null: the CPU. */
  deviceMemory: EngineInfo['deviceMemory'] = null;
  #gate: { readonly opened: Promise<void>; readonly open: () => void } | null = null;
  #failure: Error | null = null;
  readonly #listeners = new Set<(telemetry: EngineTelemetry) => void>();
  readonly #spans = new FakeSpans();
  readonly #arrivals: { readonly count: number; readonly resolve: () => void }[] = [];

  constructor(
    private described: readonly ModelDescription[] = [describeModel(), describeTranslator(), describeSpanModel()],
  ) {}

  info(): EngineInfo {
    const { state, reason, restarts } = this;
    return {
      state,
      reason,
      device: 'cpu',
      deviceReason: 'a fake',
      deviceWarnings: [],
      deviceMemory: this.deviceMemory,
      backend: 'fake',
      threads: 1,
      restarts,
      backlogMs: 0,
    };
  }

  models(): readonly ModelDescription[] {
    return this.described;
  }

  /** What was asked of `refuseIfLate`; a failure that is set for it is thrown. */
  readonly foreseen: Foreseen[] = [];
  late: ServerError | null = null;

  refuseIfLate(foreseen: Foreseen): void {
    this.foreseen.push(foreseen);
    if (this.late !== null) throw this.late;
  }

  /** What `grantSteps` grants at most. */
  stepsGranted = Number.POSITIVE_INFINITY;

  grantSteps(_foreseen: Foreseen, { maxSteps }: Budget, { floor }: { readonly floor: number }): number {
    return Math.max(floor, Math.min(maxSteps, this.stepsGranted));
  }

  async load(model: ModelDescription): Promise<void> {
    if (this.#failure !== null) throw this.#failure;
    this.described = [...this.described, model];
  }

  async unload(id: string, settled: Promise<void>): Promise<void> {
    this.described = this.described.filter((model) => model.id !== id);
    await settled;
  }

  /** Requests wait in the engine until `openGate`. */
  shutGate(): void {
    let open = (): void => {};
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    this.#gate = { opened, open };
  }

  openGate(): void {
    this.#gate?.open();
    this.#gate = null;
  }

  failWith(error: Error | null): void {
    this.#failure = error;
  }

  /** Resolves when this many requests have reached the engine since the beginning. */
  arrived(count: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.#arrived() >= count) resolve();
      else this.#arrivals.push({ count, resolve });
    });
  }

  async score(request: ScoreRequest, signal: AbortSignal): Promise<ScoreOutcome> {
    this.requests.push(request);
    this.#announce();
    this.active++;
    try {
      const model = this.#model(request.model);
      await this.#pass(signal);
      return { windows: request.windows.map((w) => scoreWindow(w, request, model)), queueMs: 0.25, computeMs: 1.5 };
    } finally {
      this.active--;
    }
  }

  async scoreStream(request: SpanRequest, signal: AbortSignal, listener?: SpanListener): Promise<SpanOutcome> {
    this.streams.push(request);
    this.#announce();
    this.active++;
    try {
      return await this.#spans.score(request, listener, async () => {
        if (this.sentencesFree > 0) this.sentencesFree--;
        else await this.#pass(signal);
      });
    } finally {
      this.active--;
    }
  }

  async endSession(model: string, key: string): Promise<void> {
    this.#spans.end(model, key);
  }

  async translate(
    request: TranslateRequest,
    signal: AbortSignal,
    listener?: TranslateListener,
  ): Promise<TranslateOutcome> {
    this.translations.push(request);
    this.#announce();
    this.active++;
    try {
      const model = this.#model(request.model);
      const sentences: SentenceResult[] = [];
      for (const [i, ids] of request.sentences.entries()) {
        if (this.sentencesFree > 0) this.sentencesFree--;
        else await this.#pass(signal);
        const result = translateSentence(ids, i, request, model);
        const { ids: said, logprobs, depths } = result.hypotheses[0] as TranslationHypothesis;
        if (request.streamTokens) {
          said.forEach((id, t) => {
            listener?.token(i, id, logprobs[t] as number, depths[t] as number);
          });
        }
        listener?.sentence(i, result);
        sentences.push(result);
      }
      return { sentences, queueMs: 0.25, computeMs: 1.5, firstTokenMs: 0.75 };
    } finally {
      this.active--;
    }
  }

  /** One token of each sequence in turn, as an engine would. */
  async generate(request: GenerateRequest, signal: AbortSignal, listener?: GenerateListener): Promise<GenerateOutcome> {
    this.generations.push(request);
    this.#announce();
    this.active++;
    try {
      const model = this.#model(request.model);
      const sequences: SequenceResult[] = new Array(request.prompts.length);
      const running = new Map(request.prompts.map((prompt, i) => [i, continuation(prompt, i, request, model)]));
      for (const [i, prompt] of request.prompts.entries()) {
        await this.#pass(signal);
        if (request.promptLogprobs) listener?.prompt(i, scoreTokens(prompt, request, model));
      }
      for (let t = 0; running.size > 0; t++) {
        for (const [i, ids] of running) {
          await this.#pass(signal);
          const stopped = t < ids.length && listener?.token(i, scoreGenerated(ids.slice(t, t + 1), request, model));
          if (stopped !== true && t < ids.length) continue;
          running.delete(i);
          const said = stopped === true ? ids.slice(0, t + 1) : ids;
          const result = sequenceOf(said, stopped === true, request.prompts[i] as Int32Array, request, model);
          sequences[i] = result;
          listener?.sequence(i, result);
        }
      }
      const spoke = sequences.some(({ tokens }) => tokens.ids.length > 0);
      return { sequences, queueMs: 0.25, computeMs: 1.5, firstTokenMs: spoke ? 0.75 : null };
    } finally {
      this.active--;
    }
  }

  async #pass(signal: AbortSignal): Promise<void> {
    if (this.#gate !== null) await Promise.race([this.#gate.opened, aborted(signal)]);
    if (signal.aborted) throw new ServerError('CLIENT_CLOSED', 'The client closed the connection.');
    if (this.#failure !== null) throw this.#failure;
  }

  #announce(): void {
    const arrived = this.#arrived();
    for (const { count, resolve } of this.#arrivals) if (arrived >= count) resolve();
  }

  #arrived(): number {
    const { requests, translations, generations, streams } = this;
    return requests.length + translations.length + generations.length + streams.length;
  }

  #model(name: string): ModelDescription {
    const model = this.described.find(({ id }) => id === name);
    if (model === undefined) throw new Error(`no model ${name}`);
    return model;
  }

  onTelemetry(listener: (telemetry: EngineTelemetry) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  report(telemetry: EngineTelemetry): void {
    for (const listener of this.#listeners) listener(telemetry);
  }

  async drain(): Promise<void> {
    this.state = 'draining';
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

/** Any function of the ids would do; depths follow the budget so that tests can see it arrive. */
export function depthOf(id: number, minSteps: number, maxSteps: number): number {
  return Math.max(minSteps, Math.min(maxSteps, 1 + (id % 5)));
}

function scoreWindow(
  { ids, scoreFrom }: ScoreWindow,
  { budget, topLogprobs }: ScoreRequest,
  model: ModelDescription,
): ScoreWindowResult {
  const scored = ids.slice(scoreFrom);
  const tops = Array.from(scored).flatMap((id) =>
    Array.from({ length: topLogprobs }, (_, k) => (id + k) % model.vocabularySize),
  );
  const depth = (id: number): number => depthOf(id, budget.minSteps, budget.maxSteps);
  return {
    logprobs: Float32Array.from(scored, (id) => -(1 + (id % 7)) / 3),
    depths: Uint8Array.from(scored, depth),
    remainders: Float32Array.from(scored, (id) => (id % 10) / 10),
    topIds: Int32Array.from(tops),
    topLogprobs: Float32Array.from(tops, (_, i) => -1 - (i % Math.max(1, topLogprobs))),
    positionSteps: ids.reduce((sum, id) => sum + depth(id), 0),
  };
}

function scoreTokens(
  ids: Int32Array,
  { budget, topLogprobs }: Pick<ScoreRequest, 'budget' | 'topLogprobs'>,
  model: ModelDescription,
): TokenScores {
  const deadlineAtMs = null;
  const { positionSteps, ...scores } = scoreWindow(
    { ids, scoreFrom: 0 },
    { model: model.id, windows: [], budget, topLogprobs, deadlineAtMs },
    model,
  );
  return { ...scores, spans: new Float32Array(0) };
}

/** A generated token is the best candidate when it was not drawn, with the very float that it has among them. */
function scoreGenerated(ids: Int32Array, request: GenerateRequest, model: ModelDescription): GeneratedTokens {
  const scores = scoreTokens(ids, request, model);
  const { topLogprobs } = request;
  ids.forEach((_, t) => {
    if (topLogprobs > 0) scores.topLogprobs[t * topLogprobs] = scores.logprobs[t] as number;
  });
  return { ids, ...scores };
}

/**
 * A prompt is continued by itself with its letters' case swapped and then the end of text, over and over. One that is sampled begins
 * as many tokens later as its seed says.
 */
function continuation(
  prompt: Int32Array,
  index: number,
  { maxNewTokens, temperature, seeds, stopIds }: GenerateRequest,
  { contextTokens, eosId }: ModelDescription,
): Int32Array {
  const cycle = [...Array.from(prompt, swapCase), eosId];
  const from = temperature === 0 ? 0 : Math.abs(seeds[index] as number) % cycle.length;
  const length = Math.min(maxNewTokens, contextTokens - prompt.length);
  const ids = Array.from({ length }, (_, t) => cycle[(from + t) % cycle.length] as number);
  const stop = ids.findIndex((id) => stopIds.includes(id));
  return Int32Array.from(stop < 0 ? ids : ids.slice(0, stop + 1));
}

function sequenceOf(
  ids: Int32Array,
  stopped: boolean,
  prompt: Int32Array,
  request: GenerateRequest,
  model: ModelDescription,
): SequenceResult {
  const { budget, stopIds, promptLogprobs } = request;
  const steps = [...prompt, ...ids].map((id) => depthOf(id, budget.minSteps, budget.maxSteps));
  return {
    prompt: promptLogprobs ? scoreTokens(prompt, request, model) : null,
    tokens: scoreGenerated(ids, request, model),
    finishReason: stopped || stopIds.includes(ids.at(-1) ?? -1) ? 'stop' : 'length',
    positions: steps.length,
    positionSteps: steps.reduce((sum, depth) => sum + depth, 0),
    cacheRows: 0,
    firstTokenAtMs: ids.length > 0 ? monotonicMs() : null,
  };
}

function translateSentence(
  source: Int32Array,
  index: number,
  { encoderBudget, decoderBudget, beam, lengthPenalty, maxNewTokens }: TranslateRequest,
  model: ModelDescription,
): SentenceResult {
  const max = maxNewTokens[index] as number;
  const words = Array.from(source.subarray(0, -1), swapCase);
  // The k-th best translation has k more exclamation marks.
  const hypotheses = Array.from({ length: beam }, (_, k): TranslationHypothesis => {
    const whole = [...words, ...new Array<number>(k).fill(0x21)];
    const ids = whole.slice(0, max);
    const said = ids.length < max ? [...ids, model.eosId] : ids;
    const logprobs = Float32Array.from(said, (id) => -(1 + k + (id % 7)) / 3);
    return {
      ids: Int32Array.from(ids),
      logprobs,
      depths: Uint8Array.from(said, (id) => depthOf(id, decoderBudget.minSteps, decoderBudget.maxSteps)),
      score: logprobs.reduce((sum, logprob) => sum + logprob, 0) / said.length ** lengthPenalty,
      finishReason: said.length > ids.length ? 'stop' : 'length',
    };
  });
  const encoderDepths = Uint8Array.from(source, (id) => depthOf(id, encoderBudget.minSteps, encoderBudget.maxSteps));
  const sum = (depths: Uint8Array): number => depths.reduce((total, depth) => total + depth, 0);
  return {
    hypotheses,
    encoderDepths,
    encoderSteps: sum(encoderDepths),
    decoderSteps: hypotheses.reduce((total, { depths }) => total + sum(depths), 0),
    decoderPositions: hypotheses.reduce((total, { depths }) => total + depths.length, 0),
    firstTokenAtMs: monotonicMs(),
  };
}

/** Of an ASCII letter; other bytes stay. */
function swapCase(byte: number): number {
  return (byte >= 0x41 && byte <= 0x5a) || (byte >= 0x61 && byte <= 0x7a) ? byte ^ 0x20 : byte;
}

/** A text with an umlaut, or one that begins like German, is German. */
export const fakeDetector: LanguageDetector = {
  detect: ([text = '']) => [{ language: /[äöüß]|^Gut/.test(text) ? 'de' : 'en', confidence: 90 }],
};

export interface FakeServer {
  readonly app: App;
  readonly engine: FakeEngine;
  readonly admission: Admission;
  readonly deps: AppDeps;
}

/** The whole HTTP side over fakes. Close `app` at the end. */
export async function fakeServer(
  argv: readonly string[] = [],
  { engine = new FakeEngine(), ...changes }: Partial<Omit<AppDeps, 'engine'>> & { engine?: FakeEngine } = {},
): Promise<FakeServer> {
  const config = parseConfig(argv, {});
  const admission = new Admission(config, engine);
  const metrics = createMetrics(
    {
      requestsInWork: () => admission.requestsInWork,
      engineRestarts: () => engine.info().restarts,
      engineReady: () => engine.info().state === 'ready',
      backlogSeconds: () => engine.info().backlogMs / 1000,
    },
    { latencyBucketsMs: config.latencyBucketsMs, processMetrics: false },
  );
  const tokenizerOf = ({ span }: ModelDescription): Tokenizer =>
    span === undefined ? new ByteTokenizer() : new PlainBytes();
  const known = engine.models();
  const tokenizers = new Map(known.map((model) => [model.id, tokenizerOf(model)]));
  const repository = new ModelRepository({
    config,
    engine,
    admission,
    tokenizers,
    loadModels: async ({ only }) => ({ models: known.filter(({ id }) => only?.includes(id)), refused: [] }),
    loadTokenizer: async (folder) => tokenizerOf(known.find((model) => model.folder === folder) as ModelDescription),
  });
  const deps: AppDeps = {
    config,
    engine,
    admission,
    repository,
    keys: new KeyRing([], config, { monotonicMs, unixMs: Date.now }),
    tls: null,
    tokenizers,
    refused: () => [],
    detector: fakeDetector,
    metrics,
    observer: new Observer(metrics),
    logger: false,
    ...changes,
  };
  return { app: await buildApp(deps), engine, admission, deps };
}
