/**
 * What OpenAPI and /docs say of each route beside its summary: the name that client generators give it, which never changes, a paragraph, and
 * the command that runs its first example. A test sees to it that every route has them.
 */

import { HEADER_LENGTH } from './kserve-body.js';

const NOTES: Readonly<Record<string, readonly [operationId: string, note: string]>> = {
  'POST /v1/score': [
    'score',
    'Tells for every token its log-probability, and the depth and remainder of the position that predicts it; for models with attention spans, how far heads look. A budget (`max_steps`, `min_steps`, `threshold`, `span_max`) changes this request alone.',
  ],
  'DELETE /v1/sessions/{key}': [
    'endSession',
    'A session keeps the cache of a model with attention spans between requests. It also ends by itself: with `session_end`, or when it was idle too long.',
  ],
  'POST /v1/translate': [
    'translate',
    'Splits texts into sentences, translates them beside each other and puts them back with their white space. With `stream` each sentence is an event, and in greedy decoding each token as it is decided.',
  ],
  'POST /v1/completions': [
    'createCompletion',
    "As OpenAI's clients send it. `echo` with `logprobs` and `max_tokens` 0 scores a prompt, which is what lm-evaluation-harness asks for; `ponder` beside `usage` tells the depths.",
  ],
  'POST /tokenize': ['tokenize', 'The ids that a model would see, and how many they are against its context.'],
  'POST /detokenize': ['detokenize', 'The text of ids. Bytes that are no whole character become U+FFFD.'],
  'GET /tokenizer_info': [
    'getTokenizerInfo',
    'For clients that put texts together themselves: special tokens and their ids.',
  ],
  'GET /v1/models': [
    'listModels',
    "In the shape that OpenAI's clients read, with what is particular to these models beside it: family, task, halting, spans, limits.",
  ],
  'GET /v1/models/{id}': [
    'getModel',
    'The same for one model, with its provenance (data, recipe, licence) and measured quality as the package has them.',
  ],
  'GET /v1/info': [
    'getInfo',
    'What to look at first when a server is not as expected: options in force, and packages refused with the reason.',
  ],
  'GET /health/live': ['getLiveness', 'For a liveness probe: says nothing about models.'],
  'GET /health/ready': ['getReadiness', 'For a readiness probe: 200 when a request sent now would be served.'],
  'GET /metrics': [
    'getMetrics',
    'For Prometheus. No label comes from a client. README lists every series; the Live view of the page draws the main ones.',
  ],
  'GET /openapi.json': ['getOpenApi', 'What this page is made of; client generators read it.'],
  'POST /translate': [
    'libreTranslate',
    'For clients of LibreTranslate, unchanged. Plain text or HTML, one text or a list; `source` may be `auto`. A key goes into the body or the header, where the server wants one.',
  ],
  'POST /detect': ['libreDetect', 'Of all texts of the request together, with a confidence in percent.'],
  'GET /languages': ['libreLanguages', 'Pairs that are served, each language into itself included.'],
  'GET /frontend/settings': ['libreSettings', 'Limits and defaults that its web page shows.'],
  'GET /health': ['libreHealth', 'As LibreTranslate answers it.'],
  'GET /v2': ['kserveServerMetadata', 'Name, version and extensions, in the Open Inference Protocol.'],
  'GET /v2/health/live': ['kserveServerLive', 'As /health/live.'],
  'GET /v2/health/ready': ['kserveServerReady', 'As /health/ready.'],
  'GET /v2/models/{id}': [
    'kserveModelMetadata',
    'Names, types and shapes of the tensors that its /infer takes and gives.',
  ],
  'GET /v2/models/{id}/ready': ['kserveModelReady', '200 when the model is served, an error otherwise.'],
  'GET /v2/models/{id}/config': ['kserveModelConfig', "What Triton's clients ask for before they send binary tensors."],
  'GET /v2/models/{id}/stats': ['kserveModelStats', 'Counts and nanoseconds since the start.'],
  'GET /v2/models/stats': ['kserveStats', 'Counts and nanoseconds since the start, model by model.'],
  'POST /v2/models/{id}/infer': [
    'kserveInfer',
    'Text or token ids and a budget in; log-probabilities, depths, remainders or translations out. Tensors are JSON, or bytes after it (the binary extension).',
  ],
  'POST /v2/repository/index': [
    'kserveRepositoryIndex',
    'Every package of the models folder, with its state and why it is not served.',
  ],
  'POST /v2/repository/models/{id}/load': [
    'kserveLoadModel',
    'The package must lie in the models folder. What is in goes on; one that is served already stays as it is. Where keys are needed, the key must be an admin.',
  ],
  'POST /v2/repository/models/{id}/unload': [
    'kserveUnloadModel',
    'New requests for the model are refused at once; the reply comes when those that are in have been answered and its memory is free.',
  ],
};

type Content = Readonly<
  Record<
    string,
    { readonly schema?: object; readonly examples?: Readonly<Record<string, { readonly value?: unknown }>> }
  >
>;

interface Operation {
  operationId?: string;
  description?: string;
  parameters?: readonly object[];
  readonly requestBody?: { content?: Content; required?: boolean };
}

/** Where the commands send their requests, unless the reader came by another way. */
const ADDRESS = 'http://127.0.0.1:8080';

/** Adds names and notes to a document; routes that have none keep what they say of themselves. */
export function annotate<T extends object>(document: T): T {
  const { paths = {} } = document as { paths?: Record<string, Record<string, Operation>> };
  for (const [path, operations] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const [operationId, note = operation.description] = NOTES[`${method.toUpperCase()} ${path}`] ?? [];
      if (operationId === undefined || note === undefined) continue;
      operation.operationId = operationId;
      operation.description = `${note}\n\n\`\`\`sh\n${commandOf(method, path, operation)}\n\`\`\``;
      if (operationId === 'kserveInfer') addBinaryBody(operation);
      // Its parameters may come by the query string alone.
      if (operationId.startsWith('libre') && operation.requestBody !== undefined)
        operation.requestBody.required = false;
    }
  }
  return document;
}

/** JSON, and the bytes of its tensors behind it: no schema can say that. */
function addBinaryBody(operation: Operation): void {
  const { requestBody, parameters = [] } = operation;
  if (requestBody === undefined) return;
  const schema = { type: 'string', format: 'binary', description: 'A JSON part, and the bytes of tensors behind it.' };
  requestBody.content = { ...requestBody.content, 'application/octet-stream': { schema } };
  const length = { type: 'integer', minimum: 0 };
  const description = 'Bytes of the JSON part; 0: the body is one text and has none. Left out: all of it is JSON.';
  operation.parameters = [...parameters, { in: 'header', name: HEADER_LENGTH, schema: length, description }];
}

/**
 * The document with commands for whoever came by this `Host`: behind a port mapping or a proxy only they know the way. What is no
 * plausible host is not put into a command that somebody may copy.
 */
export function addressedTo<T extends object>(document: T, host: string | undefined, protocol: string): T {
  if (host === undefined || host.length > 255 || !HOST.test(host)) return document;
  return JSON.parse(
    JSON.stringify(document).replaceAll(ADDRESS, `${protocol === 'https' ? 'https' : 'http'}://${host}`),
  );
}

const HOST = /^(?:[a-z\d](?:[a-z\d._-]*[a-z\d])?|\[[\da-f:.]+\])(?::\d{1,5})?$/i;

/** Notes of routes that are not there would mislead whoever reads this table. */
export function notedRoutes(): string[] {
  return Object.keys(NOTES);
}

function commandOf(method: string, path: string, { requestBody }: Operation): string {
  const url = `${ADDRESS}${path.replace('{id}', 'ut-lm-en').replace('{key}', 'draft')}`;
  const verb = method === 'get' || method === 'post' ? '' : ` -X ${method.toUpperCase()}`;
  const [example] = Object.values(requestBody?.content?.['application/json']?.examples ?? {});
  if (example?.value === undefined) return `curl -s${verb} ${url}`;
  const body = JSON.stringify(example.value).replaceAll("'", `'\\''`);
  return `curl -s${verb} ${url} -H 'content-type: application/json' \\\n  -d '${body}'`;
}
