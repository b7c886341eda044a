/** A report of the loop, as the engine sends them. */
import type { EngineTelemetry, StageTelemetry } from '../../src/engine/protocol.js';

export function stageReport(changes: Partial<StageTelemetry> = {}): EngineTelemetry {
  const model: StageTelemetry = {
    model: 'm',
    stage: 'score',
    steps: 4,
    computeSeconds: 0.5,
    hostSeconds: 0.01,
    activeRows: 20,
    renewedRows: 6,
    paddedRows: 3,
    keysUseful: 100,
    keysComputed: 130,
    rowsPerStep: [8, 6, 4, 2],
    haltedAtStep: [0, 2, 2, 2, 2],
    remainderTenths: [1, 0, 3, 0, 0, 0, 0, 0, 0, 4],
    remainderSum: 4.6,
    ...changes,
  };
  return {
    stages: [model],
    lanesWaiting: 5,
    lanesRunning: 6,
    slotsUsed: 7,
    slotsTotal: 8,
    cacheRowsUsed: 9,
    cacheRowsTotal: 10,
  };
}
