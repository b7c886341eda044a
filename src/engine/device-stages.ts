/** What of the engine runs on a GPU: which device, and the stages of the models that have graphs for one. */
import { openScoringGraphs, ResidentScoring } from '../families/resident-scoring.js';
import type { ModelDescription } from '../models/description.js';
import type { Device } from '../runtime/device.js';
import { HostedBackend } from '../runtime/hosted-backend.js';
import { openOrtCuda, providerInstalled } from '../runtime/ort-cuda.js';
import { FINISH_ROWS_MAX, FLAT_ROWS } from './device-sizes.js';
import { openTranslationOnDevice } from './device-translation.js';
import { type ModelSetup, type Opened, openModel } from './model-stages.js';
import { ResidentScoreStage } from './resident-score-stage.js';

export interface DeviceSetup {
  /** auto, cpu or cuda:N */
  readonly device: string;
  readonly threads: number;
  readonly spin: boolean;
  readonly rowsMax: number;
  readonly lanesMax: number;
  readonly slotsMax: number;
  readonly cohorts: number;
  readonly stepsMax: number;
  readonly cacheRowsMax: number;
}

export interface OpenedDevice {
  readonly device: Device | null;
  /** Why it is this one, or why the CPU is used. */
  readonly reason: string;
  /** The CPU is used though a GPU was named, or the provider was installed for one. */
  readonly fellBack: boolean;
}

/** Never throws: without a device that works the CPU serves, and the reason is told. @param open tests bring devices that fail */
export function openDevice(setup: DeviceSetup | undefined, open: typeof openOrtCuda = openOrtCuda): OpenedDevice {
  if (setup === undefined || setup.device === 'cpu')
    return { device: null, reason: 'the CPU, as --device says', fellBack: false };
  const wanted = /^cuda:(\d+)$/.exec(setup.device);
  try {
    const { threads, spin } = setup;
    const device = open({ threads, spin, deviceId: Number(wanted?.[1] ?? 0), nativeOperators: true });
    const reason = `${device.device}, ${device.name}${wanted === null ? ', chosen automatically' : ''}`;
    return { device, reason, fellBack: false };
  } catch (error) {
    const reason = `the CPU, since CUDA can't be used: ${(error as Error).message}`;
    return { device: null, reason, fellBack: wanted !== null || providerInstalled() };
  }
}

/** The stages of a model on the device; null: it has no graphs for one, and runs on the CPU. Throws RuntimeFailure. */
export function openOnDevice(device: Device, model: ModelDescription, setup: DeviceSetup): Opened | null {
  if (model.deviceGraphs === undefined || model.span !== undefined) return null;
  if (model.task === 'translate') return openTranslationOnDevice(device, model, setup);
  if (model.task !== 'score') return null;
  const { rowsMax, lanesMax, slotsMax, stepsMax, cohorts } = setup;
  const limits = { rowsMax, lanesMax, slotsMax, stepsMax, finishRowsMax: FINISH_ROWS_MAX, flatRows: FLAT_ROWS };
  const graphs = openScoringGraphs(device, model);
  const families = Array.from({ length: cohorts }, () => {
    return new ResidentScoring(device, graphs, model, { ...limits, causal: true });
  });
  const stage = new ResidentScoreStage({ id: model.id, maxSteps: model.maxSteps, families }, limits);
  const release = () => {
    device.synchronise();
    for (const family of families) family.release();
    for (const graph of Object.values(graphs)) graph.release();
  };
  return { stages: [stage], release };
}

/** A model with attention spans on the device: the stages of the CPU over the device's memory, in float32. Throws RuntimeFailure. */
export function openSpansOnDevice(
  device: Device,
  model: ModelDescription,
  setup: ModelSetup,
  { threads, rowsMax }: DeviceSetup,
  warn: (reason: string) => void,
): Promise<Opened[]> {
  const graphs = model.deviceGraphs ?? model.graphs;
  const limits = { ...setup.limits, rowsMax };
  return openModel(new HostedBackend(device, threads, warn), { ...model, graphs }, { ...setup, limits }, false);
}
