/** Asks every request for its key, before its body is received. What needs none tells nothing of models, clients or load. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { App } from './deps.js';
import type { KeyRing } from './key-ring.js';
import { LIBRETRANSLATE_PATHS } from './libretranslate.js';

/** Probes, the page and the description of the interface; and LibreTranslate's paths that its own server leaves open. */
const OPEN_ROUTES: ReadonlySet<string> = new Set([
  '/health/live',
  '/health/ready',
  '/v2/health/live',
  '/v2/health/ready',
  '/health',
  '/languages',
  '/frontend/settings',
  '/',
  '/openapi.json',
]);
const OPEN_FOLDERS = ['/page/', '/docs'];

/** Call after CORS, whose preflight requests carry no key, and before the routes. */
export function authHooks(app: App, keys: KeyRing): void {
  app.decorateRequest('key', null);
  app.addHook('onRequest', async (request, reply) => {
    const route = request.routeOptions.url;
    if (!keys.required || route === undefined || isOpen(route)) return;
    const presented = keyIn(request);
    // LibreTranslate's clients put it into the body.
    if (presented === '' && LIBRETRANSLATE_PATHS.has(route)) return;
    admit(request, reply, keys, presented);
  });
  app.addHook('preValidation', async (request, reply) => {
    const route = request.routeOptions.url ?? '';
    if (!keys.required || request.key !== null || !LIBRETRANSLATE_PATHS.has(route) || isOpen(route)) return;
    admit(request, reply, keys, keyInBody(request.body));
  });
}

function isOpen(route: string): boolean {
  return OPEN_ROUTES.has(route) || OPEN_FOLDERS.some((folder) => route.startsWith(folder));
}

function admit(request: FastifyRequest, reply: FastifyReply, keys: KeyRing, presented: string): void {
  try {
    request.key = keys.authenticate(presented);
    request.exit.tenant = request.key.name;
  } catch (error) {
    reply.header('www-authenticate', 'Bearer');
    throw error;
  }
  // Looking at models and metrics costs nothing.
  if (request.method === 'POST') request.exit.hold(keys.enter(request.key));
}

/** '' for none. */
function keyIn({ headers, query }: FastifyRequest): string {
  const bearer = /^Bearer +(.*)$/i.exec(headers.authorization ?? '')?.[1]?.trim();
  return bearer || fieldOf(query);
}

function keyInBody(body: unknown): string {
  return fieldOf(body instanceof URLSearchParams ? Object.fromEntries(body) : body);
}

/** Python's client writes api_key, npm's apiKey. */
function fieldOf(fields: unknown): string {
  if (typeof fields !== 'object' || fields === null) return '';
  const { api_key, apiKey } = fields as { readonly api_key?: unknown; readonly apiKey?: unknown };
  const key = api_key || apiKey;
  return typeof key === 'string' ? key : '';
}
