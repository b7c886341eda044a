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

const ENCODER = ['begin_lanes', 'tile', 'encoder_step', 'encoder_finish'] as const;
const DECODER = [
  ...(['begin', 'decoder_step', 'decoder_finish'] as const),
  ...(['decoder_seat', 'decoder_advance', 'decoder_settle', 'decoder_best'] as const),
];

/** The encoder runs beside the decoder, by a stream of its own. */
export interface TranslationDevice {
  readonly encoding: Device;
  readonly decoding: Device;
  readonly encoder: Readonly<Record<(typeof ENCODER)[number], DeviceGraph>>;
  readonly decoder: Readonly<Record<(typeof DECODER)[number], DeviceGraph>>;
  release(): void;
}

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

/** On failure nothing stays open. Throws RuntimeFailure. */
export function openTranslationDevice(device: Device, model: ModelDescription): TranslationDevice {
  const encoding = device.beside();
  const opened: DeviceGraph[] = [];
  const open = <Name extends string>(on: Device, names: readonly Name[]) => {
    const graphs = openDeviceGraphs(on, model, names);
    opened.push(...(Object.values(graphs) as DeviceGraph[]));
    return graphs;
  };
  const release = () => {
    for (const graph of opened) graph.release();
    encoding.release();
  };
  try {
    return { encoding, decoding: device, encoder: open(encoding, ENCODER), decoder: open(device, DECODER), release };
  } catch (error) {
    release();
    throw error;
  }
}

export class ResidentTranslation {
  readonly encoder: ResidentEncoder;
  readonly seats: SeatedDecoder;
  readonly decoders: readonly ResidentDecoder[];
  private readonly memory: ResidentMemory;

  constructor({ encoding, decoding, encoder, decoder }: TranslationDevice, sizes: ResidentTranslationSizes) {
    const { begin_lanes, tile, encoder_step, encoder_finish } = encoder;
    const { begin, decoder_step: step, decoder_finish: finish, decoder_best: best } = decoder;
    const { decoder_seat: seat, decoder_advance: advance, decoder_settle: settle } = decoder;
    const { contextTokens, maxSteps, bosId } = sizes;
    const width = widthOf(encoder_step);
    this.memory = new ResidentMemory(decoding, sizes.memoryRows, width);
    const encoderGraphs = { begin_lanes, tile, step: encoder_step, finish: encoder_finish };
    this.encoder = new ResidentEncoder(encoding, encoderGraphs, this.memory, sizes.encoder);
    const seatSizes = { ...sizes.seats, contextTokens, width, bosId };
    this.seats = new SeatedDecoder(decoding, { seat, advance, settle, step, best }, this.memory, seatSizes);
    this.decoders = Array.from({ length: sizes.cohorts }, () => {
      return new ResidentDecoder(decoding, { begin, step, finish }, this.memory, {
        ...sizes.decoder,
        contextTokens,
        maxSteps,
        width,
      });
    });
  }

  release(): void {
    this.encoder.release();
    this.seats.release();
    for (const decoder of this.decoders) decoder.release();
    this.memory.release();
  }
}
