// What the gateway says of the services and of itself. Where not all is served the answer is 503, with the same document.
import { useEffect, useRef, useState } from "preact/hooks";

import { asProblem } from "./asked";
import { type Problem, address } from "./client";
import { usePolled } from "./live";

interface Unserved { how: string; since?: string; effect?: string; last_exit?: string | null }
export interface Part { ready?: boolean; detail?: string | null; since?: string | null }
export interface Service {
  status?: string;
  ready?: boolean;
  parts?: Record<string, Part>;
  consumers?: { waiting?: Record<string, number>; in_work?: Record<string, number>; age_s?: Record<string, number> };
  projection_lag?: { messages?: Record<string, number>; age_s?: Record<string, number> };
  connections?: { size: number; in_use: number };
  pool?: Record<string, number>;
  disk?: { size_bytes?: number; free_bytes?: number };
}
export interface Readiness extends Service {
  status: string;
  accepting?: { webhooks: boolean; reason?: string | null };
  unserved?: Record<string, Unserved>;
  degraded?: string[];
  backlog?: { messages?: number; age_s?: number | null; work?: Record<string, number>; refused?: number; problem?: string | null };
  backup?: { age_s?: number };
  services?: Record<string, Service>;
  sandbox?: { tier?: string | null };
}

/** Ask how all is, now and every `ms` milliseconds while the page is looked at; null until there is an answer. */
export function useReadiness(ms: number): { now: Readiness | null; problem: Problem | null; again: () => Promise<void> } {
  const [state, setState] = useState<{ now: Readiness | null; problem: Problem | null }>({ now: null, problem: null });
  const gone = useRef(false);
  const again = async () => {
    try {
      const answer = await fetch(address("ready"), { credentials: "same-origin", headers: { Accept: "application/json" } });
      const now = (await answer.json()) as Readiness;
      if (!gone.current) setState({ now, problem: null });
    } catch (error) {
      if (!gone.current) setState({ now: null, problem: asProblem(error) });
    }
  };
  useEffect(() => {
    void again();
    return () => {
      gone.current = true;
    };
  }, []);
  usePolled(again, ms);
  return { ...state, again };
}
