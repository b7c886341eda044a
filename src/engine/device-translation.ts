/** The stage that translates on a GPU, with the sizes that a device's options give it. */
import { openTranslationDevice, ResidentTranslation } from '../families/resident-translation.js';
import type { ModelDescription } from '../models/description.js';
import type { Device } from '../runtime/device.js';
import { FINISH_ROWS_MAX, FLAT_ROWS } from './device-sizes.js';
import type { Opened } from './model-stages.js';
import { ResidentTranslateStage } from './resident-translate-stage.js';

export interface TranslationSetup {
  readonly rowsMax: number;
  readonly lanesMax: number;
  readonly slotsMax: number;
  readonly stepsMax: number;
  /** Of the decoders, each of which serves one. */
  readonly cohorts: number;
  /** Rows of their key and value caches, over all cohorts. */
  readonly cacheRowsMax: number;
}

/** Source positions of one encoder step, and hypotheses of one decoder step: what waits behind it are the tokens of others. */
const ENCODER_ROWS_MAX = 2048;
/** A step of so few rows takes 0.1 ms, and a launch the host about half of that: most sentences take five or six steps. */
const ENCODER_STEPS_MIN = 3;
const DECODER_ROWS_MAX = 2048;
/** Greedy sentences that decode at a time, each of which is a row of every step. */
const SEATS_MAX = 1024;
/** Half of the cache is theirs; the cohorts of beams have the rest. */
const SEATS_SHARE = 1 / 2;

/** Throws RuntimeFailure. */
export function openTranslationOnDevice(device: Device, model: ModelDescription, setup: TranslationSetup): Opened {
  const { lanesMax, slotsMax, stepsMax, cohorts } = setup;
  const { id, maxSteps, bosId, eosId, contextTokens } = model;
  const encoder = {
    ...{ lanesMax, slotsMax, stepsMax, stepsMin: Math.min(stepsMax, ENCODER_STEPS_MIN), flatRows: FLAT_ROWS },
    rowsMax: Math.max(contextTokens, Math.min(setup.rowsMax, ENCODER_ROWS_MAX)),
    finishRowsMax: FINISH_ROWS_MAX,
  };
  const seats = {
    seatsMax: Math.min(lanesMax * cohorts, SEATS_MAX),
    cacheRowsMax: Math.floor(setup.cacheRowsMax * SEATS_SHARE),
    stepsMax,
  };
  const decoder = {
    rowsMax: Math.min(setup.rowsMax, DECODER_ROWS_MAX),
    cacheRowsMax: Math.floor((setup.cacheRowsMax - seats.cacheRowsMax) / cohorts),
  };
  const opened = openTranslationDevice(device, model);
  const sizes = { encoder, memoryRows: slotsMax, seats, decoder, cohorts, contextTokens, maxSteps, bosId };
  const family = new ResidentTranslation(opened, sizes);
  const { encoder: encoding, seats: seating, decoders } = family;
  const stage = new ResidentTranslateStage(
    { id, maxSteps, bosId, eosId, contextTokens, encoder: encoding, seats: seating, decoders },
    sizes,
  );
  const release = () => {
    opened.encoding.synchronise();
    device.synchronise();
    family.release();
    opened.release();
  };
  return { stages: [stage], release };
}
