import { defineConfig } from "vite";

// The gateway serves what is built from its own package, below /console/assets: names hold a hash, and are kept for ever.
export default defineConfig({
  base: "/console/",
  build: {
    outDir: process.env.CONSOLE_OUT ?? "../services/gateway/pages/console",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    reportCompressedSize: true,
    // What their licences ask for where their code is passed on: the wheel has it as a file of licences.
    license: { fileName: "licences.md" },
  },
  server: {
    proxy: Object.fromEntries(
      ["/api", "/openapi.json", "/readyz", "/sign-in", "/auth", "/docs"].map((path) => [path, process.env.MILLRACE_URL ?? "http://127.0.0.1:8420"]),
    ),
  },
});
