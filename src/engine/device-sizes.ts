/** Sizes of what is launched on a GPU, whatever the stage. */

/** Rows up to which a step takes the time of one row: measured, README "On a GPU". */
export const FLAT_ROWS = 512;
/** Positions whose results one launch reads: log-probabilities of tokens, memory of source positions. */
export const FINISH_ROWS_MAX = 4096;
