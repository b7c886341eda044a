/**
 * Opens a model on the GPU or the CPU. What `--device auto` chose may turn out too small: then the CPU serves that model, and says so. Of a device that
 * was named the user expects its speed: there the failure is thrown, and the package refused. In both cases nothing of the model stays on the device.
 */
import type { ModelDescription } from '../models/description.js';
import { type Backend, RuntimeFailure } from '../runtime/backend.js';
import type { Device } from '../runtime/device.js';
import { DeviceScope } from '../runtime/device-scope.js';
import { type DeviceSetup, openOnDevice, openSpansOnDevice } from './device-stages.js';
import { type ModelSetup, type Opened, openModel } from './model-stages.js';

export interface AnySetup extends ModelSetup {
  /** Absent: the CPU. */
  readonly device?: DeviceSetup;
}

/**
 * @param device null: the CPU
 * @param warn is told why the CPU serves what the device was to serve
 * Throws RuntimeFailure with what to do.
 */
export async function openAnywhere(
  backend: Backend,
  device: Device | null,
  model: ModelDescription,
  setup: AnySetup,
  warn: (reason: string) => void,
): Promise<readonly Opened[]> {
  const sizes = setup.device;
  if (device === null || sizes === undefined) return openModel(backend, model, setup, false);
  if (model.span !== undefined) {
    const spans = await orFallBack(device, model, sizes, warn, (on) =>
      openSpansOnDevice(on, model, setup, sizes, warn),
    );
    return spans?.map(asOnDevice) ?? openModel(backend, model, setup, false);
  }
  const onDevice = await orFallBack(device, model, sizes, warn, async (on) => openOnDevice(on, model, sizes));
  if (onDevice === null) return openModel(backend, model, setup, false);
  try {
    return [asOnDevice(onDevice), ...(await openModel(backend, model, setup, true))];
  } catch (error) {
    onDevice.release();
    throw error;
  }
}

function asOnDevice(opened: Opened): Opened {
  return { ...opened, onDevice: true };
}

async function orFallBack<T>(
  device: Device,
  { id }: ModelDescription,
  setup: DeviceSetup,
  warn: (reason: string) => void,
  open: (device: Device) => Promise<T>,
): Promise<T | null> {
  const scope = new DeviceScope(device);
  try {
    const opened = await open(scope);
    scope.keep();
    return opened;
  } catch (error) {
    scope.abandon();
    if (!(error instanceof RuntimeFailure)) throw error;
    const failure = `${id} can't be opened on ${device.device}: ${error.message}${remedyOf(error.message)}`;
    if (setup.device !== 'auto') throw new RuntimeFailure('device', `${failure}; or choose --device auto or cpu`);
    warn(`the CPU serves ${id}: ${failure}`);
    return null;
  }
}

/** CUDA's error 2 in its words and in those of ONNX Runtime's arena. */
const OUT_OF_MEMORY = /out of memory|failed to allocate memory/i;

function remedyOf(message: string): string {
  if (!OUT_OF_MEMORY.test(message)) return '';
  return '; lower --device-slots-max, --device-cache-rows-max or --device-cohorts, or end what else uses its memory';
}
