/**
 * Traces for OpenTelemetry: a span for each request that was answered by an engine, and one for each of its phases. The phases are known
 * when the request ends, so its spans are made then, one after the other: where a request tokenizes while it already runs (a long
 * translation), the sums are right and the places are not. Loaded only with --traces-url.
 */
import {
  context,
  ROOT_CONTEXT,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  trace,
} from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BasicTracerProvider, BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { VERSION } from '../version.js';
import type { TraceParent } from './trace-context.js';

/** What is told of a request when it ends; durations in milliseconds. */
export interface RequestTrace {
  readonly route: string;
  readonly requestId: string;
  readonly outcome: string;
  readonly parent: TraceParent | null;
  readonly totalMs: number;
  /** null: it was refused, or needed no engine. */
  readonly phases: { readonly tokenizeMs: number; readonly queueMs: number; readonly computeMs: number } | null;
}

export interface Traces {
  record(request: RequestTrace, endedAtUnixMs: number): void;
  /** Sends what is left. */
  stop(): Promise<void>;
}

/** @param url where OTLP over HTTP goes, such as http://collector:4318/v1/traces */
export function openTraces(url: string): Traces {
  const processor = new BatchSpanProcessor(new OTLPTraceExporter({ url }));
  const provider = new BasicTracerProvider({
    resource: resourceFromAttributes({ 'service.name': 'ponder-serve', 'service.version': VERSION }),
    spanProcessors: [processor],
  });
  const tracer = provider.getTracer('ponder-serve', VERSION);
  return {
    record({ route, requestId, outcome, parent, totalMs, phases }, endedAtUnixMs) {
      const startMs = endedAtUnixMs - totalMs;
      const request = tracer.startSpan(
        `POST ${route}`,
        {
          kind: SpanKind.SERVER,
          startTime: startMs,
          attributes: { 'http.route': route, 'ponder.request_id': requestId, 'ponder.outcome': outcome },
        },
        parent === null ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, remote(parent)),
      );
      if (outcome !== 'OK') request.setStatus({ code: SpanStatusCode.ERROR, message: outcome });
      if (phases !== null) {
        const within = trace.setSpan(context.active(), request);
        let atMs = startMs;
        for (const [name, ms] of [
          ['tokenize', phases.tokenizeMs],
          ['queue', phases.queueMs],
          ['steps', phases.computeMs],
        ] as const) {
          tracer.startSpan(name, { startTime: atMs }, within).end(atMs + ms);
          atMs += ms;
        }
        tracer.startSpan('reply', { startTime: Math.min(atMs, endedAtUnixMs) }, within).end(endedAtUnixMs);
      }
      request.end(endedAtUnixMs);
    },
    stop: () => provider.shutdown(),
  };
}

function remote({ traceId, spanId, sampled }: TraceParent): SpanContext {
  return { traceId, spanId, traceFlags: sampled ? TraceFlags.SAMPLED : TraceFlags.NONE, isRemote: true };
}
