// A client of the agentledger gateway: numbers its events, sends them again as they are, and waits when it is told to.
// Needs fetch (Node 18, Deno, Bun, browsers) and nothing else. Field names and types: GET /v1/schemas/NAME.

export interface LedgerEvent {
  type: string;
  run_id: string;
  occurred_at: string | number;
  [field: string]: unknown;
}

export interface Result {
  index: number;
  status: "accepted" | "duplicate" | "rejected" | "unanswered";
  event_id?: string;
  reason?: string;
  path?: string;
  message?: string;
}

const EVENTS_PER_REQUEST_MAX = 1000;
const ATTEMPTS_MAX = 8;

export class LedgerClient {
  private nextSeq = 0;

  // producerId names this process: one that starts again takes another, as its count begins at 0 again.
  constructor(private url: string, private producerId: string, private apiKey = "") {}

  /** Record events and wait until Kafka has them; a result for each. Throws where the gateway refuses the request. */
  async record(events: LedgerEvent[]): Promise<Result[]> {
    if (events.length > EVENTS_PER_REQUEST_MAX) throw new Error(`at most ${EVENTS_PER_REQUEST_MAX} events at once`);
    const numbered = events.map((event) => ({
      producer_id: this.producerId,
      producer_seq: this.nextSeq++,
      ...event,
    }));
    const body = JSON.stringify(numbered); // the same bytes at each attempt: so that a repetition counts once
    for (let attempt = 1; ; attempt++) {
      const answer = await this.send(body);
      if (answer !== null && answer.status !== 429 && answer.status !== 503) return resultsOf(answer);
      if (attempt === ATTEMPTS_MAX) throw new Error(`the gateway did not take the events in ${ATTEMPTS_MAX} attempts`);
      const seconds = Number(answer?.headers.get("Retry-After") ?? 2 ** attempt / 10);
      await new Promise((resume) => setTimeout(resume, seconds * 1000));
    }
  }

  private async send(body: string): Promise<Response | null> {
    const headers: Record<string, string> = { "Content-Type": "application/json" };
    if (this.apiKey) headers["Authorization"] = `Bearer ${this.apiKey}`;
    try {
      return await fetch(`${this.url}/v1/events`, { method: "POST", headers, body });
    } catch {
      return null; // the connection failed: whether the events arrived is unknown, so they are sent again
    }
  }
}

async function resultsOf(answer: Response): Promise<Result[]> {
  const said = (await answer.json()) as { results?: Result[]; error?: { reason: string; message: string } };
  if (said.results) return said.results;
  throw new Error(`${answer.status} ${said.error?.reason}: ${said.error?.message}`);
}
