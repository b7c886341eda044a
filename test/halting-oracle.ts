/**
 * When a position halts, without weights: its halting probability at a step is a hash of (token ids, position, step). `replay` follows
 * one position at a time by the formulas of export/functions.py (HaltingUpdate), with no notion of batches, rows or slots.
 */
import type { Budget } from '../src/engine/protocol.js';

/** Uniform in [0, 1), the same for the same integers. */
export function hash01(...values: readonly number[]): number {
  let h = 0x811c9dc5;
  for (const value of values) {
    h = Math.imul(h ^ value, 0x01000193);
    h = Math.imul(h ^ (h >>> 15), 0x85ebca6b);
    h ^= h >>> 13;
  }
  return (h >>> 0) / 4294967296;
}

/** Stands for all that a window's tokens mean to a model. */
export function fingerprint(ids: Int32Array): number {
  return ids.reduce((h, id) => Math.imul(h ^ id, 0x01000193) >>> 0, ids.length + 1);
}

/** Halting probability; depths of 1 to 8 at the usual threshold. */
export function haltingProbability(print: number, position: number, step: number): number {
  const slow = hash01(print, position);
  return Math.fround((0.1 + 0.9 * slow * slow) * (0.5 + 0.5 * hash01(print, position, step)));
}

export interface Update {
  readonly sum: number;
  readonly halted: boolean;
  readonly remainder: number;
}

/** HaltingUpdate for one row, in float32. */
export function haltingUpdate(p: number, sum: number, threshold: number, isLast: boolean, isHeld: boolean): Update {
  const limit = Math.fround(threshold);
  const step = isHeld ? Math.min(p, Math.fround(limit - sum)) : p;
  const next = Math.fround(sum + step);
  const halted = isLast || (!isHeld && next > limit);
  return halted ? { sum: 1, halted, remainder: Math.fround(1 - sum) } : { sum: next, halted, remainder: 0 };
}

export interface Replayed {
  readonly depths: Uint8Array;
  readonly remainders: Float32Array;
  readonly positionSteps: number;
}

/** What every position of a window must report, whatever else runs. */
export function replay(ids: Int32Array, { maxSteps, minSteps, threshold }: Budget): Replayed {
  const print = fingerprint(ids);
  const depths = new Uint8Array(ids.length);
  const remainders = new Float32Array(ids.length);
  for (let position = 0; position < ids.length; position++) {
    let sum = 0;
    for (let step = 1; depths[position] === 0; step++) {
      const p = haltingProbability(print, position, step);
      const update = haltingUpdate(p, sum, threshold, step >= maxSteps, step < minSteps);
      sum = update.sum;
      if (!update.halted) continue;
      depths[position] = step;
      remainders[position] = update.remainder;
    }
  }
  return { depths, remainders, positionSteps: depths.reduce((total, depth) => total + depth, 0) };
}
