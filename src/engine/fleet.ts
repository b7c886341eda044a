/**
 * One engine over several GPUs: a worker each, all with the same models. A request goes where it would be done first; one with several windows or
 * sentences is dealt out over all. A session stays where its name puts it, since its cache is there. While a worker is away the others serve.
 */
import type { ModelDescription, RefusedModel } from '../models/description.js';
import type { EngineClient } from './client.js';
import type {
  Engine,
  EngineInfo,
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
} from './engine.js';
import type { EngineTelemetry, StageTelemetry } from './protocol.js';

export type FleetMember = Engine & Pick<EngineClient, 'refused'>;

/** A share of a job: which of its parts, and who does them. */
interface Share {
  readonly member: FleetMember;
  readonly parts: number[];
}

export class EngineFleet implements Engine {
  /** By request: how all that its jobs still do is ended when one of them fails. */
  private readonly failures = new WeakMap<AbortSignal, { readonly fail: () => void; readonly stop: AbortSignal }>();

  /** @param members one at least */
  constructor(private readonly members: readonly FleetMember[]) {}

  info(): EngineInfo {
    const infos = this.members.map((member) => member.info());
    // Ready with one of them; what keeps the others away is a warning.
    const best = infos.find(({ state }) => state === 'ready') ?? (infos[0] as EngineInfo);
    const away = infos.filter((info) => best.state === 'ready' && info.state !== 'ready');
    const memories = infos.flatMap(({ deviceMemory }) => deviceMemory ?? []);
    return {
      ...best,
      device: infos.map(({ device }) => device).join(','),
      deviceReason: infos.map(({ deviceReason }) => deviceReason).join('; '),
      deviceWarnings: [
        ...infos.flatMap(({ deviceWarnings }) => deviceWarnings),
        ...away.map(({ device, reason }) => `${device} does not serve: ${reason}`),
      ],
      deviceMemory:
        memories.length === 0
          ? null
          : { usedBytes: sumOf(memories, 'usedBytes'), totalBytes: sumOf(memories, 'totalBytes') },
      restarts: sumOf(infos, 'restarts'),
      backlogMs: sumOf(infos, 'backlogMs') / infos.length,
    };
  }

  models(): readonly ModelDescription[] {
    const [first, ...others] = this.members as [FleetMember, ...FleetMember[]];
    return first
      .models()
      .filter(({ id }) => others.every((member) => member.models().some((model) => model.id === id)));
  }

  refused(): readonly RefusedModel[] {
    const all = this.members.flatMap((member) => member.refused());
    return [...new Map(all.map((refused) => [refused.id, refused])).values()];
  }

  grantSteps(...asked: Parameters<Engine['grantSteps']>): number {
    return this.next().grantSteps(...asked);
  }

  refuseIfLate(foreseen: Foreseen): void {
    this.next().refuseIfLate(foreseen);
  }

  async score(request: ScoreRequest, signal: AbortSignal): Promise<ScoreOutcome> {
    const { windows } = request;
    const shares = this.deal(windows.map(({ ids }) => ids.length));
    const outcomes = await this.together(shares, signal, ({ member, parts }, stop) =>
      member.score({ ...request, windows: pick(windows, parts) }, stop),
    );
    return { windows: inOrder(shares, outcomes, (outcome) => outcome.windows), ...slowest(outcomes) };
  }

  async translate(
    request: TranslateRequest,
    signal: AbortSignal,
    listener?: TranslateListener,
  ): Promise<TranslateOutcome> {
    const { sentences } = request;
    const shares = this.deal(sentences.map(({ length }) => length));
    const outcomes = await this.together(shares, signal, ({ member, parts }, stop) =>
      member.translate(
        { ...request, sentences: pick(sentences, parts) },
        stop,
        listener && {
          sentence: (index, result) => listener.sentence(parts[index] as number, result),
          token: (index, ...token) => listener.token(parts[index] as number, ...token),
        },
      ),
    );
    const firstTokenMs = Math.min(...outcomes.map((outcome) => outcome.firstTokenMs));
    return { sentences: inOrder(shares, outcomes, (outcome) => outcome.sentences), ...slowest(outcomes), firstTokenMs };
  }

  scoreStream(request: SpanRequest, signal: AbortSignal, listener?: SpanListener): Promise<SpanOutcome> {
    const { session } = request;
    const member = session === null ? this.next() : this.homeOf(session.key);
    return member.scoreStream(request, signal, listener);
  }

  generate(request: GenerateRequest, signal: AbortSignal, listener?: GenerateListener): Promise<GenerateOutcome> {
    return this.next().generate(request, signal, listener);
  }

  endSession(model: string, key: string): Promise<void> {
    return this.homeOf(key).endSession(model, key);
  }

  /** On all of them or on none. */
  async load(model: ModelDescription): Promise<void> {
    const results = await Promise.allSettled(this.members.map((member) => member.load(model)));
    const failed = results.find((result) => result.status === 'rejected');
    if (failed === undefined) return;
    const loaded = this.members.filter((_, i) => results[i]?.status === 'fulfilled');
    await Promise.all(loaded.map((member) => member.unload(model.id, Promise.resolve())));
    throw failed.reason;
  }

  async unload(id: string, settled: Promise<void>): Promise<void> {
    await Promise.all(this.members.map((member) => member.unload(id, settled)));
  }

  onTelemetry(listener: (telemetry: EngineTelemetry) => void): () => void {
    const latest = new Map<FleetMember, EngineTelemetry>();
    const stops = this.members.map((member) =>
      member.onTelemetry((telemetry) => {
        latest.set(member, telemetry);
        listener(withGaugesOf(telemetry, [...latest.values()]));
      }),
    );
    return () => {
      for (const stop of stops) stop();
    };
  }

  async drain(timeoutMs: number): Promise<void> {
    await Promise.all(this.members.map((member) => member.drain(timeoutMs)));
  }

  /** Those that take requests, the one with the least to do first; all, where none does: they say why. */
  private ready(): FleetMember[] {
    const ready = this.members
      .map((member) => ({ member, ...member.info() }))
      .filter(({ state }) => state === 'ready')
      .sort((a, b) => a.backlogMs - b.backlogMs);
    return ready.length > 0 ? ready.map(({ member }) => member) : [...this.members];
  }

  private next(): FleetMember {
    return this.ready()[0] as FleetMember;
  }

  /** A function of the name alone, so that nothing has to be remembered of a session and forgotten with it. */
  private homeOf(key: string): FleetMember {
    let hash = 0;
    for (const character of key) hash = (Math.imul(hash, 31) + (character.codePointAt(0) as number)) >>> 0;
    return this.members[hash % this.members.length] as FleetMember;
  }

  /** The longest part first, each to whoever has the fewest tokens of this job so far. */
  private deal(tokens: readonly number[]): Share[] {
    const shares = this.ready().map((member) => ({ member, parts: [] as number[], tokens: 0 }));
    const order = tokens.map((_, part) => part).sort((a, b) => (tokens[b] as number) - (tokens[a] as number));
    for (const part of order) {
      const least = shares.reduce((one, other) => (other.tokens < one.tokens ? other : one));
      least.parts.push(part);
      least.tokens += tokens[part] as number;
    }
    return shares.filter(({ parts }) => parts.length > 0);
  }

  /** All shares, or the error of the first that fails; what else the request has in work is then aborted. */
  private async together<T>(
    shares: readonly Share[],
    signal: AbortSignal,
    run: (share: Share, stop: AbortSignal) => Promise<T>,
  ): Promise<T[]> {
    const { fail, stop } = this.failureOf(signal);
    try {
      return await Promise.all(shares.map((share) => run(share, stop)));
    } catch (error) {
      fail();
      throw error;
    }
  }

  /** The same for all jobs of a request: by it the doors know that the request is in. */
  private failureOf(signal: AbortSignal): { readonly fail: () => void; readonly stop: AbortSignal } {
    const known = this.failures.get(signal);
    if (known !== undefined) return known;
    const controller = new AbortController();
    const failure = { fail: () => controller.abort(), stop: AbortSignal.any([signal, controller.signal]) };
    this.failures.set(signal, failure);
    return failure;
  }
}

function pick<T>(all: readonly T[], parts: readonly number[]): T[] {
  return parts.map((part) => all[part] as T);
}

function inOrder<O, R>(shares: readonly Share[], outcomes: readonly O[], of: (outcome: O) => readonly R[]): R[] {
  const all: R[] = [];
  shares.forEach(({ parts }, i) => {
    const results = of(outcomes[i] as O);
    parts.forEach((part, j) => {
      all[part] = results[j] as R;
    });
  });
  return all;
}

function slowest(outcomes: readonly { readonly queueMs: number; readonly computeMs: number }[]) {
  const total = (outcome: { readonly queueMs: number; readonly computeMs: number }) =>
    outcome.queueMs + outcome.computeMs;
  const { queueMs, computeMs } = outcomes.reduce((one, other) => (total(other) > total(one) ? other : one));
  return { queueMs, computeMs };
}

/** A report of one member, whose gauges are those of all together; its counters are its own. */
function withGaugesOf(telemetry: EngineTelemetry, all: readonly EngineTelemetry[]): EngineTelemetry {
  const stages = telemetry.stages.map((stage): StageTelemetry => {
    if (stage.span === undefined) return stage;
    const alike = all.flatMap(({ stages }) =>
      stages.flatMap(({ model, stage: name, span }) =>
        model === stage.model && name === stage.stage && span !== undefined ? span : [],
      ),
    );
    const { span } = stage;
    return {
      ...stage,
      span: {
        ...span,
        sessionsOpen: sumOf(alike, 'sessionsOpen'),
        cacheBytesUsed: sumOf(alike, 'cacheBytesUsed'),
        cacheBytesTotal: sumOf(alike, 'cacheBytesTotal'),
      },
    };
  });
  return {
    ...telemetry,
    stages,
    lanesWaiting: sumOf(all, 'lanesWaiting'),
    lanesRunning: sumOf(all, 'lanesRunning'),
    slotsUsed: sumOf(all, 'slotsUsed'),
    slotsTotal: sumOf(all, 'slotsTotal'),
    cacheRowsUsed: sumOf(all, 'cacheRowsUsed'),
    cacheRowsTotal: sumOf(all, 'cacheRowsTotal'),
  };
}

function sumOf<K extends string>(all: readonly Readonly<Record<K, number>>[], name: K): number {
  return all.reduce((sum, one) => sum + one[name], 0);
}
