/** Starts the engine that the configuration asks for: one worker, or one for each GPU. */
import { writeSync } from 'node:fs';
import { assertServable, type Config } from '../config.js';
import type { ModelDescription } from '../models/description.js';
import { EngineClient, type EngineSettings } from './client.js';
import { EngineFleet } from './fleet.js';
import { type EngineWorker, spawnWorker } from './keeper.js';
import type { WorkerSetup } from './worker.js';

/** Log-probabilities of as many rows are computed between two steps at most. */
const FINISH_ROWS_MAX = 512;

export type StartedEngine = EngineClient | EngineFleet;

/** The process can't even exit in order: it would wait for the thread. Whoever supervises it starts another. */
export function endProcess(reason: string): void {
  writeSync(process.stderr.fd, `ponder-serve: ${reason}; the process ends\n`);
  process.kill(process.pid, 'SIGKILL');
}

/** Resolves when the models are loaded. Throws Error with one line when the engine can't start. */
export async function startEngine(
  config: Config,
  models: readonly ModelDescription[],
  spawn: (setup: WorkerSetup) => EngineWorker = spawnWorker,
): Promise<StartedEngine> {
  assertServable(config, models);
  const clients: EngineClient[] = [];
  try {
    // One after the other: opening a package takes several times the memory that it keeps.
    for (const device of config.device.split(',')) {
      const client = new EngineClient(settingsOf(config, models, device, spawn));
      clients.push(client);
      await client.started();
      const { device: got, deviceReason } = client.info();
      if (got !== 'cpu') continue;
      // One that falls back to the CPU would hold up what is dealt to it; where the first does, there is nothing to deal out.
      if (clients.length > 1) throw new Error(`${device} can't be used: ${deviceReason}; leave it out of --device`);
      break;
    }
  } catch (error) {
    await Promise.all(clients.map((client) => client.drain(0)));
    throw error;
  }
  const [only] = clients;
  return clients.length === 1 ? (only as EngineClient) : new EngineFleet(clients);
}

function settingsOf(
  config: Config,
  models: readonly ModelDescription[],
  device: string,
  spawn: (setup: WorkerSetup) => EngineWorker,
): EngineSettings {
  return {
    setup: {
      backend: config.backend,
      threads: config.threads,
      spin: true,
      limits: {
        rowsMax: config.batchRowsMax,
        lanesMax: config.lanesMax,
        slotsMax: config.slotsMax,
        finishRowsMax: FINISH_ROWS_MAX,
      },
      cacheRowsMax: config.cacheRowsMax,
      span: {
        lanesMax: config.spanLanesMax,
        blockTokens: config.spanBlockTokens,
        sessionsMax: config.sessionsMax,
        idleMsMax: config.sessionIdleMsMax,
      },
      device: {
        device,
        threads: config.threads,
        spin: true,
        rowsMax: config.deviceRowsMax,
        lanesMax: config.deviceLanesMax,
        slotsMax: config.deviceSlotsMax,
        cohorts: config.deviceCohorts,
        stepsMax: config.deviceStepsMax,
        cacheRowsMax: config.deviceCacheRowsMax,
      },
      queueWaitMsMax: config.queueWaitMsMax,
      models,
    },
    queueLanesMax: config.queueLanesMax,
    queueTokensMax: config.queueTokensMax,
    spawn,
    stallMsMax: config.engineStallMsMax,
    onStuck: endProcess,
  };
}
