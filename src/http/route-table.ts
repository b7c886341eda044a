/** Which methods each path is served with. Fastify answers a wrong method with 404; this table lets us say 405 and Allow. */
export class RouteTable {
  readonly #routes = new Map<string, { readonly matches: RegExp; readonly methods: Set<string> }>();

  /** @param pattern of a route: `/v1/models/:id`, `/docs/static/*` */
  add(pattern: string, methods: readonly string[]): void {
    const route = this.#routes.get(pattern) ?? { matches: patternMatcher(pattern), methods: new Set<string>() };
    for (const method of methods) route.methods.add(method);
    this.#routes.set(pattern, route);
  }

  methodsOf(path: string): string[] {
    const methods = new Set<string>();
    for (const route of this.#routes.values()) {
      if (route.matches.test(path)) for (const method of route.methods) methods.add(method);
    }
    return [...methods].sort();
  }
}

function patternMatcher(pattern: string): RegExp {
  const escaped = pattern.replace(/[.+?^${}()|[\]\\]/g, '\\$&');
  return new RegExp(`^${escaped.replace(/:[^/]+/g, '[^/]+').replace(/\*/g, '.*')}$`);
}
