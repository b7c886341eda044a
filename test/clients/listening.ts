import type { AddressInfo } from 'node:net';
import { type FakeServer, fakeServer } from '../fakes.js';

export interface Listening extends FakeServer {
  /** Without a slash at its end. */
  readonly url: string;
  /** HOST:PORT */
  readonly address: string;
  close(): Promise<void>;
}

/** The HTTP side over fakes, at a free port: clients need a socket. Parameters as for `fakeServer`. */
export async function listeningServer(...args: Parameters<typeof fakeServer>): Promise<Listening> {
  const server = await fakeServer(...args);
  await server.app.listen({ host: '127.0.0.1', port: 0 });
  const address = `127.0.0.1:${(server.app.server.address() as AddressInfo).port}`;
  const close = async (): Promise<void> => {
    server.app.server.closeAllConnections();
    await server.app.close();
  };
  return { ...server, url: `http://${address}`, address, close };
}
