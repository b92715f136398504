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
  // Which question is the newest, whether its answer is awaited, and whether it is to be asked once more then.
  const turn = useRef({ number: 0, busy: false, again: false });
  const ask = async (): Promise<void> => {
    const at = turn.current;
    if (given === null) return;
    if (at.busy) {
      at.again = true;
      return;
    }
    const mine = ++at.number;
    at.busy = true;
    setState((was) => ({ ...was, data: was.key === key ? was.data : undefined, key, loading: true }));
    try {
      const data = await call(operation, given);
      if (mine === at.number) setState({ key, data, problem: null, loading: false });
    } catch (error) {
      if (mine === at.number) setState((was) => ({ ...was, problem: asProblem(error), loading: false }));
    }
    if (mine !== at.number) return;
    at.busy = false;
    if (at.again) {
      at.again = false;
      await ask();
    }
  };
  useEffect(() => {
    void ask();
    return () => {
      turn.current = { number: turn.current.number + 1, busy: false, again: false };
    };
  }, [key]);
  return { data: state.key === key ? state.data : undefined, problem: state.problem, loading: state.loading, again: ask };
}

/** The value that somebody has written as JSON; raises, as something that can be shown, for what is none. */
export function written(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Problem(0, "This is not JSON", error instanceof Error ? error.message : String(error));
  }
}

/** Whatever was thrown, as something that can be shown. */
export function asProblem(error: unknown): Problem {
  return error instanceof Problem ? error : new Problem(0, "It failed in this page", error instanceof Error ? error.message : String(error));
}
