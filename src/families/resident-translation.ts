/** Translation on a device: one encoder, a decoder for sentences in seats and one for each cohort of beams, and the memory between them. */
import type { ModelDescription } from '../models/description.js';
import type { Device, DeviceGraph } from '../runtime/device.js';
import type { ResidentLimits } from '../scheduler/resident-scheduler.js';
import type { SeatLimits } from '../scheduler/seat-scheduler.js';
import { openDeviceGraphs, widthOf } from './device-graphs.js';
import { ResidentDecoder } from './resident-decoder.js';
import { ResidentEncoder } from './resident-encoder.js';
import { ResidentMemory } from './resident-memory.js';
import { SeatedDecoder } from './seated-decoder.js';

const GRAPHS = [
  ...(['begin', 'begin_lanes', 'tile', 'encoder_step', 'encoder_finish', 'decoder_step', 'decoder_finish'] as const),
  ...(['decoder_seat', 'decoder_advance', 'decoder_settle', 'decoder_best'] as const),
];
export type TranslationGraphs = Readonly<Record<(typeof GRAPHS)[number], DeviceGraph>>;

export interface ResidentTranslationSizes {
  readonly encoder: ResidentLimits;
  /** Source positions whose memory is held. */
  readonly memoryRows: number;
  readonly seats: SeatLimits;
  /** Of each cohort. */
  readonly decoder: { readonly rowsMax: number; readonly cacheRowsMax: number };
  readonly cohorts: number;
  readonly contextTokens: number;
  readonly maxSteps: number;
  readonly bosId: number;
}

export function openTranslationGraphs(device: Device, model: ModelDescription): TranslationGraphs {
  return openDeviceGraphs(device, model, GRAPHS);
}

export class ResidentTranslation {
  readonly encoder: ResidentEncoder;
  readonly seats: SeatedDecoder;
  readonly decoders: readonly ResidentDecoder[];
  private readonly memory: ResidentMemory;

  constructor(device: Device, graphs: TranslationGraphs, sizes: ResidentTranslationSizes) {
    const { begin, begin_lanes, tile, encoder_step, encoder_finish, decoder_step, decoder_finish } = graphs;
    const width = widthOf(encoder_step);
    this.memory = new ResidentMemory(device, sizes.memoryRows, width);
    const encoder = { begin_lanes, tile, step: encoder_step, finish: encoder_finish };
    this.encoder = new ResidentEncoder(device, encoder, this.memory, sizes.encoder);
    const decoder = { begin, step: decoder_step, finish: decoder_finish };
    const { contextTokens, maxSteps, bosId } = sizes;
    const { decoder_seat: seat, decoder_advance: advance, decoder_settle: settle, decoder_best: best } = graphs;
    this.seats = new SeatedDecoder(device, { seat, advance, settle, begin, step: decoder_step, best }, this.memory, {
      ...sizes.seats,
      contextTokens,
      width,
      bosId,
    });
    this.decoders = Array.from({ length: sizes.cohorts }, () => {
      return new ResidentDecoder(device, decoder, this.memory, { ...sizes.decoder, contextTokens, maxSteps, width });
    });
  }

  release(): void {
    this.encoder.release();
    this.seats.release();
    for (const decoder of this.decoders) decoder.release();
    this.memory.release();
  }
}
