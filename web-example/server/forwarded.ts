// What a proxy in front says in `X-Forwarded-…`.

/** The first of a list, which the proxy nearest to the browser wrote: each one on the way may have added its own. */
export function first(header: string | null): string | undefined {
  return header?.split(",")[0]?.trim() || undefined;
}
