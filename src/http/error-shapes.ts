/** How an error looks to the clients of each protocol: one table of errors, a shape and statuses of their own on their paths. */
import { type ErrorCode, errorBody, type ServerError } from '../errors.js';
import { LIBRETRANSLATE_PATHS } from './libretranslate.js';

interface ErrorShape {
  readonly covers: (path: string) => boolean;
  /** Errors that these clients know as another status; what tells a load balancer or a retry something stays as it is. */
  readonly statuses: Partial<Record<ErrorCode, number>>;
  readonly body: (error: ServerError) => object;
}

/** Where our interface says 422 (the field is wrong) these protocols know of 400 alone. */
const asBadRequest = { INVALID_REQUEST: 400 } as const;

/** The paths of OpenAI's completions, and those that vLLM added to them. */
const COMPLETION_PATHS: ReadonlySet<string> = new Set([
  '/v1/completions',
  '/tokenize',
  '/detokenize',
  '/tokenizer_info',
]);

const OURS: ErrorShape = { covers: () => true, statuses: {}, body: errorBody };

/** The first that covers a path counts. */
const SHAPES: readonly ErrorShape[] = [
  {
    covers: (path) => LIBRETRANSLATE_PATHS.has(path),
    statuses: { ...asBadRequest, UNKNOWN_MODEL: 400, PAYLOAD_TOO_LARGE: 400, UNAUTHENTICATED: 403 },
    body: ({ message }) => ({ error: message }),
  },
  {
    covers: (path) => path === '/v2' || path.startsWith('/v2/'),
    statuses: asBadRequest,
    // Its deadline is a parameter in microseconds.
    body: ({ message }) => ({ error: message.replace(/\bdeadline_ms\b/, 'timeout') }),
  },
  // Our own shape is OpenAI's, with our codes.
  { covers: (path) => COMPLETION_PATHS.has(path), statuses: asBadRequest, body: errorBody },
  OURS,
];

/** What to answer with on a path (without its query). */
export function shapeError(path: string, error: ServerError): { readonly status: number; readonly body: object } {
  const { statuses, body } = SHAPES.find(({ covers }) => covers(path)) ?? OURS;
  return { status: statuses[error.code] ?? error.status, body: body(error) };
}
