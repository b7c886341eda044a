import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fastifyStatic from '@fastify/static';
import { ServerError } from '../../errors.js';
import type { App } from '../deps.js';

/** Where `npm run build` puts the page; compiled, this file lies in dist/src/http/routes. */
const FOLDER = fileURLToPath(new URL('../../page/', import.meta.url));

/**
 * Nothing but our own files, and no string ever becomes markup: `require-trusted-types-for` makes the browser refuse innerHTML and
 * its like, so that no tokenizer, prompt or model can reach the page as anything but text.
 */
const HEADERS = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; " +
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  // Revalidated each time: a page older than its server would ask for what is no longer there.
  'cache-control': 'no-cache',
  vary: 'accept-encoding',
};

/** The playground: `GET /`, and its files below /page/. They need no key; what the page asks the server for does. */
export async function pageRoutes(app: App): Promise<void> {
  if (!existsSync(`${FOLDER}index.html`)) {
    app.get('/', { schema: { hide: true } }, async () => {
      throw new ServerError('NOT_FOUND', 'the page is not built: npm run build, and start the server again');
    });
    return;
  }
  // A folder is no file of ours; asked for one, fastify-static answers 403.
  app.addHook('onRequest', async (request, reply) => {
    const { pathname } = new URL(request.url, 'http://page');
    if (request.routeOptions.url !== '/' && !/\.\w+$/.test(pathname)) return reply.callNotFound();
  });
  await app.register(fastifyStatic, {
    root: FOLDER,
    prefix: '/page/',
    index: false,
    preCompressed: true,
    cacheControl: false,
    decorateReply: true,
    setHeaders: (reply) => {
      for (const [name, value] of Object.entries(HEADERS)) reply.setHeader(name, value);
    },
  });
  app.get('/', { schema: { hide: true } }, async (_, reply) => reply.sendFile('index.html'));
}
