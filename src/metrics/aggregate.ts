/** The metrics of several processes as those of one: counters, histograms and most gauges add up, each as it was declared. */
import { AggregatorRegistry, type Registry } from 'prom-client';

/** What one process has, to be sent to another. */
export async function exportMetrics(registry: Registry): Promise<object> {
  return registry.getMetricsAsJSON();
}

/** @param exported one of `exportMetrics` for each process. @returns the text format */
export async function aggregateMetrics(exported: readonly object[]): Promise<string> {
  return AggregatorRegistry.aggregate(exported as object[]).metrics();
}
