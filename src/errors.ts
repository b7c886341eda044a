/**
 * THE error table: every operating error a client can see, once. Callers match on the code; codes are never reused.
 * Programmer errors are assertions and stop the process; they are not in this table.
 */
export const ERRORS = {
  INVALID_REQUEST: {
    status: 422,
    type: 'invalid_request_error',
    retryable: false,
    help: 'A field has a wrong type or value; the message names it and what is allowed.',
  },
  MALFORMED_JSON: {
    status: 400,
    type: 'invalid_request_error',
    retryable: false,
    help: 'The body is not valid JSON in UTF-8.',
  },
  UNKNOWN_MODEL: {
    status: 404,
    type: 'not_found_error',
    retryable: false,
    help: 'No model of that name is served; GET /v1/models lists them.',
  },
  DEADLINE_EXCEEDED: {
    status: 504,
    type: 'timeout_error',
    retryable: true,
    help: 'The deadline passed before the request finished; ask for less or raise deadline_ms.',
  },
  QUEUE_FULL: {
    status: 429,
    type: 'overloaded_error',
    retryable: true,
    help: 'The admission limit is reached; retry after the Retry-After seconds.',
  },
  NOT_READY: {
    status: 503,
    type: 'unavailable_error',
    retryable: true,
    help: 'The engine is starting or restarting; retry after the Retry-After seconds.',
  },
  DRAINING: {
    status: 503,
    type: 'unavailable_error',
    retryable: true,
    help: 'The server is shutting down; send the request to another replica.',
  },
  ENGINE_LOST: {
    status: 503,
    type: 'unavailable_error',
    retryable: true,
    help: 'The engine worker died while the request was in flight; it restarts, retry.',
  },
  CLIENT_CLOSED: {
    status: 499,
    type: 'client_error',
    retryable: false,
    help: 'The client closed the connection; its rows left the engine at the next step.',
  },
  INTERNAL: {
    status: 500,
    type: 'internal_error',
    retryable: false,
    help: 'A defect of the server; the log has the details under the request id.',
  },
} as const satisfies Record<string, ErrorEntry>;

interface ErrorEntry {
  readonly status: number;
  readonly type: string;
  readonly retryable: boolean;
  readonly help: string;
}

export type ErrorCode = keyof typeof ERRORS;

/** An operating error on its way to a client: `param` names the offending field, the message says what to do. */
export class ServerError extends Error {
  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly param: string | null = null,
    readonly retryAfterSeconds: number | null = null,
  ) {
    super(message);
    this.name = 'ServerError';
  }
}
