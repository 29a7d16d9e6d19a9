// The line between this page and the network, to be cut on purpose: what is open breaks off, and what is tried meanwhile fails,
// as where a train goes into a tunnel. It stands in for `fetch`, so that the stream knows nothing of it.

import { useCallback, useEffect, useRef, useState } from "react";

const CUT_MS = 6000;

class Cable {
  cutUntil = 0;
  #plug = new AbortController();

  readonly fetch: typeof fetch = (input, init) => {
    if (Date.now() < this.cutUntil) return Promise.reject(new TypeError("the cable is cut"));
    const signals = [this.#plug.signal, init?.signal].filter((signal) => signal != null);
    return fetch(input, { ...init, signal: AbortSignal.any(signals) });
  };

  cut(): void {
    this.cutUntil = Date.now() + CUT_MS;
    this.#plug.abort(new TypeError("the cable is cut"));
    this.#plug = new AbortController();
  }
}

/** `share` names the tabs that use one connection: whichever of them holds it, its cable is cut. */
export function useCable(share: string | null) {
  const [cable] = useState(() => new Cable());
  const [cutUntil, setCutUntil] = useState(0);
  const others = useRef<BroadcastChannel>(null);

  const cutHere = useCallback(() => {
    cable.cut();
    setCutUntil(cable.cutUntil);
  }, [cable]);

  useEffect(() => {
    if (share === null) return;
    const channel = new BroadcastChannel(`cable ${share}`);
    channel.onmessage = cutHere;
    others.current = channel;
    return () => {
      others.current = null;
      channel.close();
    };
  }, [share, cutHere]);

  const cut = useCallback(() => {
    cutHere();
    others.current?.postMessage("cut");
  }, [cutHere]);

  return { fetch: cable.fetch, cut, cutUntil };
}
