/** A package's manifest and the session of its graph must describe the same inputs and outputs. */
import type { GraphDescription } from '../models/description.js';
import { RuntimeFailure, type TensorSpec } from '../runtime/backend.js';

interface Opened {
  readonly inputs: Readonly<Record<string, TensorSpec>>;
  readonly outputs: Readonly<Record<string, TensorSpec>>;
}

/** Throws RuntimeFailure naming the first input or output that differs. */
export function expectSame(name: string, described: GraphDescription, opened: Opened): void {
  for (const side of ['inputs', 'outputs'] as const) {
    const wanted = described[side];
    const found = opened[side];
    for (const key of new Set([...Object.keys(wanted), ...Object.keys(found)])) {
      const text = (spec: (typeof wanted)[string] | undefined) =>
        spec === undefined ? 'nothing' : `${spec.type} [${spec.dims.join(', ')}]`;
      if (text(wanted[key]) === text(found[key])) continue;
      throw new RuntimeFailure(
        'open',
        `${name}: ${side.slice(0, -1)} ${key} is ${text(found[key])} in the graph and ${text(wanted[key])} in the manifest; ` +
          'export the package again',
      );
    }
  }
}
