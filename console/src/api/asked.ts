// What a page has asked for: its answer, kept while it is asked again, and what went wrong.
import { useEffect, useRef, useState } from "preact/hooks";

import { type Answer, type Given, type Operation, Problem, call, org } from "./client";

export interface Asked<T> {
  data: T | undefined;
  problem: Problem | null;
  loading: boolean;
  /** Ask again; what is shown stays until there is an answer. */
  again: () => Promise<void>;
}

/** Ask an operation, and again whenever what is given changes; `null` asks nothing. */
export function useAsked<O extends Operation>(operation: O, given: Given<O> | null): Asked<Answer<O>> {
  const key = given === null ? null : JSON.stringify([operation, given.path, given.query, given.body, org.value]);
  const [state, setState] = useState<{ key: string | null; data?: Answer<O>; problem: Problem | null; loading: boolean }>({
    key: null,
    problem: null,
    loading: given !== null,
  });
  const turn = useRef(0);
  const ask = async () => {
    if (given === null) return;
    const mine = ++turn.current;
    setState((was) => ({ ...was, data: was.key === key ? was.data : undefined, key, loading: true }));
    try {
      const data = await call(operation, given);
      if (mine === turn.current) setState({ key, data, problem: null, loading: false });
    } catch (error) {
      if (mine === turn.current) setState((was) => ({ ...was, problem: asProblem(error), loading: false }));
    }
  };
  useEffect(() => {
    void ask();
    return () => {
      turn.current++;
    };
  }, [key]);
  return { data: state.key === key ? state.data : undefined, problem: state.problem, loading: state.loading, again: ask };
}

/** Whatever was thrown, as something that can be shown. */
export function asProblem(error: unknown): Problem {
  return error instanceof Problem ? error : new Problem(0, "It failed in this page", error instanceof Error ? error.message : String(error));
}
