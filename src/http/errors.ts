/**
 * Whatever goes wrong leaves in one shape: errors of ours, of fastify and its plugins, unknown paths and methods, and requests
 * that are not HTTP at all.
 */
import { randomUUID } from 'node:crypto';
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';
import { ERRORS, errorBody, ServerError } from '../errors.js';
import { bodyTooLarge } from './admission.js';
import { shapeError } from './error-shapes.js';
import { LIBRETRANSLATE_PATHS } from './libretranslate.js';
import type { RouteTable } from './route-table.js';
import { explainValidation, shorten } from './validation.js';

const MEDIA_TYPE_REMEDY = 'send application/json in UTF-8, uncompressed';

export function unsupportedMediaType(what: string, remedy = MEDIA_TYPE_REMEDY): ServerError {
  return new ServerError('UNSUPPORTED_MEDIA_TYPE', `${what} is not supported: ${remedy}`);
}

/** curl sends a form unless it is told otherwise, and fetch may send no type at all. */
function wrongContentType(request: FastifyRequest): ServerError {
  const what = request.headers['content-type'] === undefined ? 'a body without Content-Type' : 'this Content-Type';
  const form = LIBRETRANSLATE_PATHS.has(pathOf(request)) ? ', or application/x-www-form-urlencoded' : '';
  return unsupportedMediaType(what, `${MEDIA_TYPE_REMEDY} (-H 'content-type: application/json')${form}`);
}

/**
 * What a thrown value means to the client.
 * @param limits as `explainValidation` takes them
 */
export function toServerError(
  error: unknown,
  request: FastifyRequest,
  bodyBytesMax: number,
  limits: Readonly<Record<string, number>> = {},
): ServerError {
  if (error instanceof ServerError) return error;
  const { code, validation, statusCode = 500 } = error as Partial<FastifyError>;
  if (validation !== undefined) {
    return explainValidation(validation, request.body, request.routeOptions.schema?.body, limits);
  }
  switch (code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return bodyTooLarge(bodyBytesMax);
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return wrongContentType(request);
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
      return new ServerError(
        'MALFORMED_REQUEST',
        'the body is not as long as Content-Length says: send its length in bytes',
      );
    case 'FST_ERR_MAX_PARAM_LENGTH':
      return new ServerError('NOT_FOUND', 'the path is too long for any route: GET /openapi.json lists the paths');
    case 'ECONNRESET':
      return new ServerError('CLIENT_CLOSED', 'the client closed the connection');
  }
  if (statusCode === 404) return new ServerError('NOT_FOUND', 'not found: GET /openapi.json lists the paths');
  if (statusCode >= 400 && statusCode < 500) {
    return new ServerError('MALFORMED_REQUEST', 'the request is malformed: check its path, headers and length');
  }
  return new ServerError(
    'INTERNAL',
    `a defect of the server; its log has the details under the request id ${request.id}`,
  );
}

/** In our one shape, or in that of the protocol whose path it is. */
export function sendError(reply: FastifyReply, error: ServerError): FastifyReply {
  if (error.retryAfterSeconds !== null) reply.header('retry-after', String(error.retryAfterSeconds));
  // OpenAI's clients would send a request again after every 5xx.
  if (error.status >= 500 && !ERRORS[error.code].retryable) reply.header('x-should-retry', 'false');
  const { status, body } = shapeError(pathOf(reply.request), error);
  return reply.code(status).type('application/json; charset=utf-8').send(JSON.stringify(body));
}

function pathOf({ url }: FastifyRequest): string {
  return url.split('?', 1)[0] ?? '';
}

const NO_CHAT = 'the models served here continue text, they do not chat: use POST /v1/completions';

/** What OpenAI's clients may look for and will not find, with what there is. */
const INSTEAD: Readonly<Record<string, string>> = {
  '/v1/chat/completions': NO_CHAT,
  '/chat/completions': NO_CHAT,
  '/v1/responses': NO_CHAT,
};

/** The path is served with other methods (405), or not at all (404). */
export function notFound(request: FastifyRequest, reply: FastifyReply, routes: RouteTable): ServerError {
  const path = pathOf(request);
  const allowed = routes.methodsOf(path);
  const method = request.method;
  // A method that is allowed but was not found is a file that /docs does not have.
  if (allowed.length === 0 || allowed.includes(method)) {
    const instead = INSTEAD[path];
    if (instead !== undefined) return new ServerError('NOT_FOUND', instead);
    const shown = shorten(path);
    return new ServerError('NOT_FOUND', `no such path: ${method} ${shown}; GET /openapi.json lists the paths`);
  }
  reply.header('allow', allowed.join(', '));
  return new ServerError('METHOD_NOT_ALLOWED', `${method} is not allowed here: use ${allowed.join(' or ')}`);
}

/** What Node's HTTP parser reports about a connection whose request never became one. Null: nobody is left to answer. */
export function toConnectionError(error: NodeJS.ErrnoException): ServerError | null {
  switch (error.code) {
    case 'ECONNRESET':
    case 'EPIPE':
      return null;
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new ServerError('REQUEST_TIMEOUT', 'the request took too long to arrive: send headers and body at once');
    case 'HPE_HEADER_OVERFLOW':
      return new ServerError(
        'HEADERS_TOO_LARGE',
        'request line and headers are too large: send less (--header-bytes-max)',
      );
    default:
      return new ServerError('MALFORMED_REQUEST', 'this is not valid HTTP/1.1: check request line, headers and length');
  }
}

/** Longest time a refused connection stays open for its client to read why. */
const LINGER_MS = 500;

/** Answers on the bare connection and closes it. False: an answer was already under way, or nobody listens. */
export function answerConnection(
  socket: Socket & { _httpMessage?: ServerResponse | null },
  error: ServerError,
): boolean {
  if (!socket.writable) return false;
  // A reply of which a part is on the wire must not get a second one in its middle.
  if (socket._httpMessage?.headersSent) {
    socket.destroy();
    return false;
  }
  const body = JSON.stringify(errorBody(error));
  socket.end(
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}\r\n` +
      `content-type: application/json; charset=utf-8\r\ncontent-length: ${Buffer.byteLength(body)}\r\n` +
      `x-request-id: ${randomUUID()}\r\nconnection: close\r\n\r\n${body}`,
  );
  // Closing at once would reset the connection while the client is still sending, and the answer would be lost.
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
  return true;
}

/** Answers an `Expect` header other than 100-continue, which Node would answer with an empty 417. */
export function answerExpectation(response: ServerResponse): ServerError {
  const message = 'the Expect header is not understood: leave it out or send 100-continue';
  const error = new ServerError('EXPECTATION_FAILED', message);
  response.writeHead(error.status, {
    'content-type': 'application/json; charset=utf-8',
    'x-request-id': randomUUID(),
    connection: 'close',
  });
  response.end(JSON.stringify(errorBody(error)));
  return error;
}

/** HTTP/1.1 requires the header (RFC 9112, 3.2). @throws ServerError MALFORMED_REQUEST */
export function assertHost({ headers, httpVersion }: IncomingMessage): void {
  if (headers.host !== undefined || httpVersion === '1.0') return;
  throw new ServerError('MALFORMED_REQUEST', 'the Host header is missing: send it');
}
