// The line between this page and the network, to be cut on purpose: what is open breaks off, and what is tried meanwhile fails,
// as where a train goes into a tunnel. It stands in for `fetch`, so that the stream knows nothing of it.

export class Cable {
  #cutUntil = 0;
  #plug = new AbortController();

  readonly fetch: typeof fetch = (input, init) => {
    if (Date.now() < this.#cutUntil) return Promise.reject(new TypeError("the cable is cut"));
    const signals = [this.#plug.signal, init?.signal].filter((signal) => signal != null);
    return fetch(input, { ...init, signal: AbortSignal.any(signals) });
  };

  cut(milliseconds: number): void {
    this.#cutUntil = Date.now() + milliseconds;
    this.#plug.abort(new TypeError("the cable is cut"));
    this.#plug = new AbortController();
  }
}
