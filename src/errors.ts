/**
 * THE error table: every operating error a client can see, once. Callers match on the code; codes are never reused.
 * Programmer errors are assertions and stop the process; they are not in this table.
 */
interface ErrorEntry {
  readonly status: number;
  readonly type: string;
  /** Whether the same request can succeed later, unchanged. */
  readonly retryable: boolean;
  /** The Retry-After header, unless the error names its own; null: no header. */
  readonly retryAfterSeconds: number | null;
  readonly help: string;
}

const client = { type: 'invalid_request_error', retryable: false, retryAfterSeconds: null } as const;
const unavailable = { status: 503, type: 'unavailable_error', retryable: true } as const;

export const ERRORS = {
  INVALID_REQUEST: {
    ...client,
    status: 422,
    help: 'A field has a wrong type or value; the message names it and what is allowed.',
  },
  MALFORMED_JSON: { ...client, status: 400, help: 'The body is not valid JSON in UTF-8.' },
  MALFORMED_REQUEST: { ...client, status: 400, help: 'The request is not valid HTTP, or its path or length is wrong.' },
  UNAUTHENTICATED: {
    ...client,
    status: 401,
    type: 'authentication_error',
    help: 'The server wants an API key, and none or an unknown one was sent; send Authorization: Bearer KEY.',
  },
  KEY_EXPIRED: {
    ...client,
    status: 403,
    type: 'permission_error',
    help: 'The API key has expired; ask for a new one.',
  },
  FORBIDDEN: {
    ...client,
    status: 403,
    type: 'permission_error',
    help: 'The request is understood but not allowed here; the message says what would have to be allowed.',
  },
  NOT_FOUND: {
    ...client,
    status: 404,
    type: 'not_found_error',
    help: 'No such path; GET /openapi.json lists the paths.',
  },
  UNKNOWN_MODEL: {
    ...client,
    status: 404,
    type: 'not_found_error',
    help: 'No model of that name is served; GET /v1/models lists them.',
  },
  SESSION_UNKNOWN: {
    ...client,
    status: 404,
    type: 'not_found_error',
    help: 'No session of that name is open, or it was idle too long (--session-idle-ms-max); begin a new one.',
  },
  SESSION_OPEN: {
    ...client,
    status: 409,
    help: 'A session of that name is open already: continue it, or end it with DELETE /v1/sessions/{key} first.',
  },
  SESSION_BUSY: {
    ...client,
    status: 409,
    help: 'Another request of this session is in work; a stream goes on from one place at a time.',
  },
  METHOD_NOT_ALLOWED: {
    ...client,
    status: 405,
    help: 'The path exists, but not with this method; the Allow header lists those that do.',
  },
  REQUEST_TIMEOUT: {
    status: 408,
    type: 'timeout_error',
    retryable: true,
    retryAfterSeconds: null,
    help: 'The client took too long to send its headers or body (--headers-timeout-ms, --request-timeout-ms).',
  },
  PAYLOAD_TOO_LARGE: {
    ...client,
    status: 413,
    help: 'The body, a text or the whole request exceeds a limit of the server; the message names the limit.',
  },
  UNSUPPORTED_MEDIA_TYPE: {
    ...client,
    status: 415,
    help: 'The body must be application/json in UTF-8, without Content-Encoding.',
  },
  EXPECTATION_FAILED: { ...client, status: 417, help: 'The only Expect header understood is 100-continue.' },
  HEADERS_TOO_LARGE: { ...client, status: 431, help: 'Request line and headers exceed --header-bytes-max.' },
  QUEUE_FULL: {
    status: 429,
    type: 'overloaded_error',
    retryable: true,
    retryAfterSeconds: 1,
    help: 'The admission limit is reached; retry after the Retry-After seconds.',
  },
  RATE_LIMITED: {
    status: 429,
    type: 'rate_limit_error',
    retryable: true,
    retryAfterSeconds: 1,
    help: 'A limit of the API key is reached; retry after the Retry-After seconds.',
  },
  CLIENT_CLOSED: {
    status: 499,
    type: 'client_error',
    retryable: false,
    retryAfterSeconds: null,
    help: 'The client closed the connection; its rows left the engine at the next step.',
  },
  INTERNAL: {
    status: 500,
    type: 'internal_error',
    retryable: false,
    retryAfterSeconds: null,
    help: 'A defect of the server; the log has the details under the request id.',
  },
  NOT_READY: {
    ...unavailable,
    retryAfterSeconds: 2,
    help: 'The engine is starting or restarting; retry after the Retry-After seconds.',
  },
  DRAINING: {
    ...unavailable,
    retryAfterSeconds: 1,
    help: 'The server is shutting down; send the request to another replica.',
  },
  ENGINE_LOST: {
    ...unavailable,
    retryAfterSeconds: 2,
    help: 'The engine worker died while the request was in flight; it restarts, retry.',
  },
  DEADLINE_EXCEEDED: {
    status: 504,
    type: 'timeout_error',
    retryable: true,
    retryAfterSeconds: null,
    help: 'The deadline passed before the request finished; ask for less or raise deadline_ms.',
  },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

/** An operating error on its way to a client: `param` names the offending field, the message says what to do. */
export class ServerError extends Error {
  override readonly name = 'ServerError';

  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly param: string | null = null,
    readonly retryAfterSeconds: number | null = ERRORS[code].retryAfterSeconds,
  ) {
    super(message);
  }

  get status(): number {
    return ERRORS[this.code].status;
  }
}

/** The one shape of every error that leaves the server. */
export interface ErrorBody {
  readonly error: {
    readonly code: ErrorCode;
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
  };
}

export function errorBody({ code, message, param }: ServerError): ErrorBody {
  return { error: { code, message, type: ERRORS[code].type, param } };
}
