// Where one can go: the pages, in the order of the menu, and what each needs to be shown.
import type { ComponentType } from "preact";

import type { Operation } from "../api/client";
import { operationOf } from "../api/description";
import { KINDS } from "./kinds";
import { below, match } from "./router";

export type PageProps = Record<string, string>;
type Module = { default: ComponentType<any> };

export interface Place {
  path: string;
  title: string;
  group: string;
  /** What has to be allowed for it to be in the menu. */
  needs?: Operation;
  /** `g` and this key leads there. */
  key?: string;
}

const GROUPS = ["", "What happens", "What is built", "What it uses", "Who may", "Operations"];
const PAGES_OF_THEIR_OWN: Place[] = [
  { path: "/", title: "Overview", group: "", key: "o" },
  { path: "/deliveries", title: "Deliveries", group: "What happens", needs: "list_deliveries", key: "d" },
  { path: "/runs", title: "Runs", group: "What happens", needs: "list_runs", key: "r" },
  { path: "/approvals", title: "Approvals", group: "What happens", needs: "list_approvals", key: "a" },
  { path: "/logs", title: "Logs", group: "What happens", needs: "search_logs", key: "l" },
  { path: "/dead-letters", title: "Dead letters", group: "What happens", needs: "list_dead_letters", key: "x" },
  { path: "/audit", title: "Audit", group: "What happens", needs: "search_audit" },
  { path: "/workflows", title: "Workflows", group: "What is built", needs: "list_workflows", key: "w" },
  { path: "/members", title: "Members", group: "Who may", needs: "list_members" },
  { path: "/operations", title: "Health and quotas", group: "Operations", needs: "list_environments", key: "h" },
];

/** The menu. A kind of resource that the gateway has not is not in it. */
export const PLACES: Place[] = [
  ...PAGES_OF_THEIR_OWN,
  ...Object.entries(KINDS).flatMap(([path, kind]): Place[] => {
    const list = operationOf("GET", `/api/v1/${path}`);
    return list ? [{ path: `/${path}`, title: kind.title, group: kind.group, needs: list, key: path === "sources" ? "s" : undefined }] : [];
  }),
].sort((a, b) => GROUPS.indexOf(a.group) - GROUPS.indexOf(b.group));

/** The pages, by the patterns of their paths. */
export const PAGES: [string, () => Promise<Module>][] = [
  ["/", () => import("../pages/overview")],
  ["/deliveries", () => import("../pages/deliveries")],
  ["/deliveries/:id", () => import("../pages/delivery")],
  ["/runs", () => import("../pages/runs")],
  ["/runs/:id", () => import("../pages/run")],
  ["/approvals", () => import("../pages/approvals")],
  ["/approvals/:id", () => import("../pages/approval")],
  ["/logs", () => import("../pages/logs")],
  ["/audit", () => import("../pages/audit")],
  ["/dead-letters", () => import("../pages/dead_letters")],
  ["/dead-letters/:id", () => import("../pages/dead_letter")],
  ["/workflows", () => import("../pages/workflows")],
  ["/workflows/:name", () => import("../pages/workflow")],
  ["/files/:path*", () => import("../pages/file")],
  ["/members", () => import("../pages/members")],
  ["/operations", () => import("../pages/operations")],
  ["/schedules", () => import("../pages/schedules")],
  ["/:kind", () => import("../pages/resources")],
  ["/:kind/:name", () => import("../pages/resource")],
];

/** The place in the menu that a path belongs to. */
export function placeOf(path: string): Place | undefined {
  const at = below(path) ?? "";
  return PLACES.findLast((one) => at === one.path || (one.path !== "/" && at.startsWith(`${one.path}/`)));
}

/** The page of a path, with the parts of it. */
export function pageOf(path: string): { load: () => Promise<Module>; parts: PageProps; pattern: string } | null {
  for (const [pattern, load] of PAGES) {
    const parts = match(pattern, below(path) ?? "");
    if (parts) return { load, parts, pattern };
  }
  return null;
}
