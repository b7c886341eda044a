/** Opens the graphs of a package for a device: those of precision float16, which a package describes beside those of the CPU. */
import path from 'node:path';
import type { ModelDescription } from '../models/description.js';
import { RuntimeFailure } from '../runtime/backend.js';
import type { Device, DeviceGraph } from '../runtime/device.js';
import { expectSame } from './graph-agreement.js';

/** On failure none stays open. Throws RuntimeFailure naming the graph and the disagreement. */
export function openDeviceGraphs<Name extends string>(
  device: Device,
  model: ModelDescription,
  names: readonly Name[],
): Record<Name, DeviceGraph> {
  const opened = new Map<string, DeviceGraph>();
  try {
    for (const name of names) {
      const described = model.deviceGraphs?.[name];
      if (described === undefined)
        throw new RuntimeFailure(
          'open',
          `the package has no float16 graph ${name}: its graphs are older than this server; ` +
            `python export/renew_graphs.py ${model.folder} makes them anew over its weights`,
        );
      const graph = device.open(path.join(model.folder, described.file));
      opened.set(name, graph);
      expectSame(name, described, graph);
    }
  } catch (error) {
    for (const graph of opened.values()) graph.release();
    throw error;
  }
  return Object.fromEntries(opened) as Record<Name, DeviceGraph>;
}

/** Throws RuntimeFailure when the graph of a step leaves its width open. */
export function widthOf(step: DeviceGraph): number {
  const width = step.inputs.state?.dims[1];
  if (typeof width !== 'number') throw new RuntimeFailure('open', 'the step graph has no fixed width');
  return width;
}
