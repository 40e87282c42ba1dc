// What a test runs: two events, the second with a misspelt field.
import { LedgerClient } from "./client.mjs";

declare const process: { argv: string[] };
const [, , url, apiKey] = process.argv;
const ledger = new LedgerClient(url, "example-ts-1", apiKey);
const run = { run_id: "ts-1", agent_id: "support-bot", occurred_at: new Date().toISOString() };
const results = await ledger.record([
  { ...run, type: "RunStarted", workflow: "refund_request" },
  { ...run, type: "ModelCallCompleted", provider: "openai", requested_model: "gpt-4.1", input_tokens: 1420 },
  { ...run, type: "PolicyDecided", verdit: "allow" },
]);
console.log(JSON.stringify(results));
